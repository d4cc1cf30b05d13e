"""A round of attempts: the rows that it made, which of them pass, and where the rows of each cell are.

The rows of a round are in the order of the cells, so those of a range of cells are one range of rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tirazh.pipeline.crossing.crossing import Crossing
from tirazh.pipeline.crossing.layouts import Attempts
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.quality.dedup.duplicates import Duplicates
from tirazh.pipeline.steps.accepted.attempts import Counts
from tirazh.pipeline.storage.disk import StoredFile


@dataclass(frozen=True, kw_only=True)
class Round:
    """`crossing` has the attempts, `manifest` is that of the generate job, whose output is `output`.

    `judged` is the plan of its judgement: one part for every part of the round. `first_part` is the number of the
    first one among the parts of all rounds.
    """

    crossing: Crossing
    manifest: dict[str, Any]
    output: OutputFiles
    judged: Plan
    first_part: int

    @property
    def counts(self) -> Counts:
        """The attempts of every cell, int64 [C]."""
        assert isinstance(self.crossing.layout, Attempts), "a round has chosen attempts"
        return self.crossing.layout.counts

    @cached_property
    def cells(self) -> Counts:
        """The cell of every row, int64 [R]."""
        return self.crossing.cells(0, self.crossing.num_rows)

    def slices(self, first: int, stop: int) -> list[Slice]:
        """Where the rows of the cells `first` to `stop` (exclusive) are, in order."""
        ends = np.cumsum(self.counts)
        low, high = (int(ends[cell - 1]) if cell else 0 for cell in (first, stop))
        found, row = [], 0
        for part in self.judged.parts:
            start, end = max(low, row), min(high, row + part.rows)
            if start < end:
                found.append(
                    Slice(
                        part=self.first_part + part.index,
                        name=part.name,
                        file=part.file,
                        output=self.output,
                        start=start - row,
                        stop=end - row,
                        cells=self.cells[start:end],
                    )
                )
            row += part.rows
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice:
    """Rows `start` to `stop` (exclusive) of a part of a round, and the cell of each.

    `part` is its number among the parts of all rounds, `name` its name as a judged file, and `file` its part file.
    """

    part: int
    name: str
    file: StoredFile
    output: OutputFiles
    start: int
    stop: int
    cells: Counts


@dataclass(eq=False)
class Progress:
    """What the rounds so far have accepted, all [C]. `reasons` counts those of the rows that do not pass, by cell."""

    accepted: Counts
    attempted: Counts
    reasons: dict[int, Counter[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, rounds: Sequence[Round], reasons: Sequence[Sequence[Sequence[str]]], num_cells: int) -> Progress:
        """Count the rows of `rounds`; `reasons` has those of every row of each round."""
        found = cls(np.zeros(num_cells, np.int64), np.zeros(num_cells, np.int64))
        for each, rows in zip(rounds, reasons, strict=True):
            passes: NDArray[np.bool_] = np.fromiter((not row for row in rows), np.bool_, len(rows))
            found.accepted += np.bincount(each.cells[passes], minlength=num_cells)
            found.attempted += each.counts
            for index in np.flatnonzero(~passes):
                found.reasons.setdefault(int(each.cells[index]), Counter()).update(rows[int(index)])
        return found


def with_duplicates(
    reasons: Sequence[Sequence[Sequence[str]]], duplicates: Duplicates, first_part: int
) -> list[list[str]]:
    """The reasons of the rows of a round, of which `reasons` has those of every part without duplicates."""
    rows: list[list[str]] = []
    for index, part in enumerate(reasons):
        dropped = duplicates.of(first_part + index)
        named = dict(zip(dropped.rows.tolist(), dropped.names, strict=True))
        rows += [[*row, named[number]] if number in named else list(row) for number, row in enumerate(part)]
    return rows
