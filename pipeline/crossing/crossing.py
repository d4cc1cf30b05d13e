"""The rows of a crossing: those of any range, made by arithmetic when they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tirazh.errors import RequestError
from tirazh.pipeline.crossing.declaration import MAX_CELLS, Value
from tirazh.pipeline.crossing.layouts import (
    Attempts,
    EveryCell,
    Layout,
    Located,
    count_cells,
    join_cells,
    layout_from_json,
    split_cells,
)
from tirazh.pipeline.crossing.value_list import MAX_TEXT_BYTES, ValueList

# What names the rows of a crossing as if they were a file: no path and no address begins so.
PREFIX = "vary:"


@dataclass(frozen=True, eq=False)
class Crossing:
    """Lists of values, and which rows are made of their combinations. Each name is a column."""

    lists: tuple[ValueList, ...]
    layout: Layout

    def __post_init__(self) -> None:
        if self.num_cells > MAX_CELLS:
            raise RequestError(f"--vary has {self.num_cells:.1e} combinations; at most 2^62 are allowed")
        if self.nbytes > MAX_TEXT_BYTES:
            raise RequestError(
                f"--vary: the values of all names take {self.nbytes >> 20:,} MiB, more than {MAX_TEXT_BYTES >> 20}; "
                "put the longest list into --input instead"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order in which they were declared."""
        return tuple(each.name for each in self.lists)

    @property
    def num_cells(self) -> int:
        """The number of combinations of the values."""
        return count_cells(self.lists)

    @cached_property
    def num_rows(self) -> int:
        """The number of rows."""
        return self.layout.num_rows(self.lists)

    @property
    def rows_per_cell(self) -> int:
        """The rows of a cell. Raises TypeError where cells have different numbers of rows."""
        if not isinstance(self.layout, EveryCell):
            raise TypeError("the cells of this crossing have different numbers of rows")
        return self.layout.per_cell

    @property
    def nbytes(self) -> int:
        """The size of all values in memory, in bytes."""
        return sum(each.nbytes for each in self.lists)

    @property
    def schema(self) -> pa.Schema:
        """The columns of the rows: string, int64 or double."""
        return pa.schema([pa.field(each.name, each.values.type) for each in self.lists])

    @cached_property
    def digest(self) -> str:
        """32 hex digits of a SHA-256 over everything that the rows depend on."""
        content = json.dumps([[each.digest for each in self.lists], self.layout.to_json()], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    def rows(self, start: int, stop: int, only: Sequence[str] | None = None) -> pa.Table:
        """The rows `start` to `stop` (exclusive), with the columns `only`, or all."""
        located = self._locate(start, stop)
        columns = {
            each.name: each.values.take(index_R)
            for each, index_R in zip(self.lists, located.values, strict=True)
            if only is None or each.name in only
        }
        return pa.table(columns).select(list(columns) if only is None else list(only))

    def repeated_rows(self, start: int, stop: int, only: Sequence[str] | None = None) -> pa.Table:
        """The rows `start` to `stop` (exclusive) of the crossing repeated without an end."""
        size = self.num_rows
        if stop - start >= size:
            return self.rows(0, size, only).take(np.arange(start, stop) % size)
        first, last = start % size, (stop - 1) % size + 1
        if first < last:
            return self.rows(first, last, only)
        return pa.concat_tables([self.rows(first, size, only), self.rows(0, last, only)])

    def repetitions(self, start: int, stop: int) -> NDArray[np.int32]:
        """The repetitions of the rows `start` to `stop` (exclusive), shape [R] (`layouts.py`)."""
        return self._locate(start, stop).repetitions

    def cells(self, start: int, stop: int) -> NDArray[np.int64]:
        """The cells of the rows `start` to `stop` (exclusive), shape [R]."""
        return join_cells(self.lists, self._locate(start, stop).values)

    def cell_values(self, cell: int) -> dict[str, Value]:
        """The values of a cell by their names."""
        if not 0 <= cell < self.num_cells:
            raise IndexError(f"there is no cell {cell} among {self.num_cells}")
        indices = split_cells(self.lists, np.array([cell], np.int64))
        return {each.name: each.values[int(index[0])].as_py() for each, index in zip(self.lists, indices, strict=True)}

    def cell_of(self, values: Mapping[str, Value]) -> int:
        """The cell with these values. Raises KeyError for a missing name or value."""
        table = pa.table({each.name: pa.array([values[each.name]], each.values.type) for each in self.lists})
        return int(self.cells_of(table)[0])

    def cells_of(self, table: pa.Table) -> NDArray[np.int64]:
        """The cell of every row of a table with the columns of the crossing, shape [R]: of an output, for example.

        Raises KeyError for a missing column and for a value that is in no list.
        """
        indices = []
        for each in self.lists:
            found = pc.index_in(table.column(each.name).cast(each.values.type), value_set=each.values)
            if found.null_count:
                raise KeyError(f"a value of the column {each.name!r} is not in its list")
            indices.append(np.asarray(found.to_numpy(), np.int64))
        return join_cells(self.lists, indices)

    def with_attempts(self, ranges: Sequence[tuple[int, int]] | NDArray[np.int64]) -> Crossing:
        """The crossing whose rows are, for every cell, the repetitions of a range (first, count), cell by cell.

        `ranges` has one range for every cell, in the order of the cells; a count may be 0. The rows are those of the
        full crossing with the same values and repetitions.
        """
        ranges_C2 = np.asarray(ranges, np.int64).reshape(-1, 2)
        if len(ranges_C2) != self.num_cells:
            raise ValueError(f"{len(ranges_C2)} ranges for {self.num_cells} cells")
        return replace(self, layout=Attempts(ranges_C2[:, 0].copy(), ranges_C2[:, 1].copy()))

    def mean_text_bytes(self, names: Sequence[str]) -> float:
        """The mean bytes of the values of `names` in a row, as texts."""
        return sum(each.mean_bytes for each in self.lists if each.name in names)

    def identity(self) -> list[list[Any]]:
        """What tells this crossing's lists from others, as JSON values: name, number of values and digest of each."""
        return [[each.name, len(each), each.digest] for each in self.lists]

    def summary(self) -> dict[str, Any]:
        """The crossing in figures, for the console and for `--json`."""
        per_cell = self.layout.per_cell if isinstance(self.layout, EveryCell) else None
        lists = [f"{each.name}: {len(each):,}" for each in self.lists]
        return {"vary": lists, "cells": self.num_cells, "per_cell": per_cell}

    def to_json(self) -> dict[str, Any]:
        """The crossing as JSON values, for the plan file."""
        return {"lists": [each.to_json() for each in self.lists], "layout": self.layout.to_json()}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Crossing:
        """Read what `to_json` has returned. Raises ValueError, KeyError or TypeError for anything else."""
        lists = tuple(ValueList.from_json(each) for each in stored["lists"])
        return cls(lists, layout_from_json(stored["layout"]))

    def _locate(self, start: int, stop: int) -> Located:
        if not 0 <= start <= stop <= self.num_rows:
            raise IndexError(f"rows {start} to {stop} are not among the {self.num_rows} rows of the crossing")
        return self.layout.locate(self.lists, start, stop)
