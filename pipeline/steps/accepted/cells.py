"""The final parts of `accepted`: each has the attempts of some cells, from all rounds, in the order of the cells."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tirazh.errors import JobError
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.schemas.arrow_types import take
from tirazh.pipeline.planned_files import PlannedFile
from tirazh.pipeline.steps.accepted.attempts import first_accepted
from tirazh.pipeline.steps.accepted.rounds import Round, Slice
from tirazh.pipeline.steps.filtering.part import FilterConfig, read_judged, store_part
from tirazh.pipeline.steps.filtering.quality import Judged
from tirazh.pipeline.steps.filtering.receipt import FilterReceipt
from tirazh.pipeline.steps.filtering.source import read_file
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.filesystem import Storage

# The reason of a row that passes and is not needed.
SURPLUS = "surplus"


@dataclass(frozen=True, eq=False)
class CellRows:
    """A final part, the slices of the rounds that it is made of, and the reasons of duplicates by (part, row)."""

    part: Part
    slices: tuple[Slice, ...]
    duplicates: Mapping[tuple[int, int], str]
    wanted: int


def cell_slices(rounds: Sequence[Round], cells_per_part: int) -> list[tuple[Slice, ...]]:
    """The slices of every final part, in order."""
    num_cells = rounds[0].crossing.num_cells
    return [
        tuple(each for made in rounds for each in made.slices(first, min(first + cells_per_part, num_cells)))
        for first in range(0, num_cells, cells_per_part)
    ]


def cell_files(slices: Sequence[Sequence[Slice]]) -> tuple[PlannedFile, ...]:
    """The files of the final plan: one for every part, whose version says which rows it is made of."""
    files = []
    for index, each in enumerate(slices):
        content = [[one.file.version, one.start, one.stop] for one in each]
        version = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        rows = sum(one.stop - one.start for one in each)
        files.append(PlannedFile(StoredFile("rounds", f"cells {index}", 0, version), (0, rows)))
    return tuple(files)


def write_cells(config: FilterConfig, item: CellRows) -> FilterReceipt:
    """Write the rows of some cells: the first `wanted` of each that pass are kept."""
    found = [_judged(config, each) for each in item.slices]
    reasons: list[list[str]] = []
    for each, (_, rows) in zip(item.slices, found, strict=True):
        numbers = range(each.start, each.stop)
        named = (item.duplicates.get((each.part, number)) for number in numbers)
        reasons += [[*row, name] if name else row for row, name in zip(rows, named, strict=True)]
    cells = np.concatenate([each.cells for each in item.slices])
    passes = np.fromiter((not row for row in reasons), np.bool_, len(reasons))
    chosen = first_accepted(cells, passes, wanted=item.wanted)
    for row in np.flatnonzero(passes & ~chosen):
        reasons[row] = [SURPLUS]
    order = np.argsort(cells, kind="stable")
    table = take(pa.concat_tables([judged.table for judged, _ in found]), order).combine_chunks()
    # The masks of a part are counted where its first row is.
    masked: dict[str, int] = {}
    for each, (judged, _) in zip(item.slices, found, strict=True):
        for kind, count in judged.masked.items() if each.start == 0 else ():
            masked[kind] = masked.get(kind, 0) + count
    return store_part(config, item.part, Judged(table, [reasons[row] for row in order], masked))


def read_cells(slices: Sequence[Slice], storage: Storage) -> pa.Table:
    """The rows of a final part as the rounds made them, in the order of the cells."""
    tables = [read_file(each.file, storage).slice(each.start, each.stop - each.start) for each in slices]
    order = np.argsort(np.concatenate([each.cells for each in slices]), kind="stable")
    return pa.concat_tables(tables).take(order).combine_chunks()


def _judged(config: FilterConfig, each: Slice) -> tuple[Judged, list[list[str]]]:
    """The rows of a slice, and their reasons without duplicates."""
    judged = read_judged(each.output, each.name, config)
    if judged.table.num_rows < each.stop:
        raise JobError(f"{each.name} has fewer rows than its round; run the same command again")
    table = judged.table.slice(each.start, each.stop - each.start)
    return Judged(table, judged.reasons, judged.masked), [list(row) for row in judged.reasons[each.start : each.stop]]
