"""Which rows a crossing has: every cell so many times, chosen attempts of every cell, or cells that are drawn.

A cell is a combination of values. Cells are numbered with the last name as the fastest: with a topic before a
style, cell 1 has the first topic and the second style. The repetition of a row tells it from the other rows of
its cell; the row's random numbers depend on it and on the values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tirazh.pipeline.crossing.draws import draw
from tirazh.pipeline.crossing.value_list import ValueList

Lists = Sequence[ValueList]


@dataclass(frozen=True, slots=True)
class Located:
    """The rows of a range: for every name the index of the value of each row, int64 [R], and the repetitions, int32
    [R].
    """

    values: tuple[NDArray[np.int64], ...]
    repetitions: NDArray[np.int32]


class Layout(Protocol):
    """The rows of a crossing, by arithmetic."""

    def num_rows(self, lists: Lists) -> int:
        """The number of rows."""

    def locate(self, lists: Lists, start: int, stop: int) -> Located:
        """The rows `start` to `stop` (exclusive)."""

    def to_json(self) -> dict[str, Any]:
        """The layout as JSON values, for the plan file."""


@dataclass(frozen=True)
class EveryCell:
    """`per_cell` rows of every cell, cell by cell, with the repetitions 0 to `per_cell` - 1."""

    per_cell: int

    def num_rows(self, lists: Lists) -> int:
        """The number of cells times `per_cell`."""
        return count_cells(lists) * self.per_cell

    def locate(self, lists: Lists, start: int, stop: int) -> Located:
        """The rows `start` to `stop` (exclusive)."""
        rows_R = np.arange(start, stop, dtype=np.int64)
        cells_R, repetitions_R = np.divmod(rows_R, self.per_cell)
        return Located(split_cells(lists, cells_R), repetitions_R.astype(np.int32))

    def to_json(self) -> dict[str, Any]:
        """The layout as JSON values."""
        return {"per_cell": self.per_cell}


@dataclass(frozen=True, eq=False)
class Attempts:
    """For cell c the `counts[c]` repetitions from `first[c]` on, cell by cell. Both are int64 [C]."""

    first: NDArray[np.int64]
    counts: NDArray[np.int64]

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """The row behind the last one of every cell, int64 [C]."""
        return np.cumsum(self.counts)

    def num_rows(self, lists: Lists) -> int:
        """The number of all attempts."""
        return int(self.ends[-1])

    def locate(self, lists: Lists, start: int, stop: int) -> Located:
        """The rows `start` to `stop` (exclusive)."""
        rows_R = np.arange(start, stop, dtype=np.int64)
        cells_R = np.searchsorted(self.ends, rows_R, side="right")
        within_R = rows_R - (self.ends - self.counts)[cells_R]
        return Located(split_cells(lists, cells_R), (self.first[cells_R] + within_R).astype(np.int32))

    def to_json(self) -> dict[str, Any]:
        """The layout as JSON values."""
        return {"first": self.first.tolist(), "counts": self.counts.tolist()}


@dataclass(frozen=True)
class Draws:
    """`rows` rows, each of which draws a value of every name by `seed` and its own number (`draws.py`).

    The repetition of a row is its number, so a row does not change when other rows draw other values.
    """

    rows: int
    seed: int

    def num_rows(self, lists: Lists) -> int:
        """The number of rows."""
        return self.rows

    def locate(self, lists: Lists, start: int, stop: int) -> Located:
        """The rows `start` to `stop` (exclusive)."""
        values = tuple(draw(each, seed=self.seed, start=start, stop=stop) for each in lists)
        return Located(values, np.arange(start, stop, dtype=np.int32))

    def to_json(self) -> dict[str, Any]:
        """The layout as JSON values."""
        return {"rows": self.rows, "job_seed": self.seed}


def layout_from_json(stored: dict[str, Any]) -> Layout:
    """Read what `to_json` has returned. Raises KeyError or TypeError for anything else."""
    if "per_cell" in stored:
        return EveryCell(stored["per_cell"])
    if "rows" in stored:
        return Draws(stored["rows"], stored["job_seed"])
    return Attempts(np.array(stored["first"], np.int64), np.array(stored["counts"], np.int64))


def count_cells(lists: Lists) -> int:
    """The number of combinations of the values."""
    return prod(map(len, lists))


def split_cells(lists: Lists, cells_R: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """For every name the index of its value in the cells, each of shape [R]."""
    indices = []
    for each in reversed(lists):
        cells_R, index_R = np.divmod(cells_R, len(each))
        indices.append(index_R)
    return tuple(reversed(indices))


def join_cells(lists: Lists, values: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The inverse of `split_cells`."""
    cells_R = np.zeros_like(values[0])
    for each, index_R in zip(lists, values, strict=True):
        cells_R = cells_R * len(each) + index_R
    return cells_R
