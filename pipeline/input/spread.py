"""Chooses rows that are spread evenly over the whole input, without reading it: for a preview and for measurements.

Nothing of it depends on chance, so the same plan gives the same rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.pipeline.crossing.crossing import Crossing
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.read import read_rows
from tirazh.pipeline.storage.filesystem import Storage, keep_trying

# Places of the input that a sample is taken from; of each at most so many rows, out of so many bytes that are decoded.
PLACES = 16
ROWS_OF_A_PLACE = 64
_BYTES_OF_A_PLACE = 1 << 20
# Behind the beginning of its row group a place costs the decoding of the rows before it.
_MAX_SKIPPED_BYTES = 4 << 20
_FEW_ROWS = 16
# Rows of a crossing of which those with the rarest values are chosen.
_CANDIDATES = 512
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, slots=True)
class Place:
    """Rows taken from one place of the input: `table`, from `part`, which stands for `share` of all rows."""

    part: Part
    share: float
    table: pa.Table


def spread_rows(parts: Sequence[Part], count: int) -> list[Part]:
    """At most `count` rows in equal distances, each as a part of one row that keeps the index of its part."""
    total = sum(part.rows for part in parts)
    wanted = min(count, total)
    return [_row_at(parts, total * (2 * number + 1) // (2 * wanted)) for number in range(wanted)]


def row_numbers(parts: Sequence[Part], rows: Sequence[Part]) -> list[int]:
    """The number of each of `rows` (parts of one row) in the whole input, from 0."""
    ends = accumulate(part.rows for part in parts)
    first = {part.index: end - part.rows for part, end in zip(parts, ends, strict=True)}
    starts = {part.index: part.start for part in parts}
    return [first[row.index] + row.start - starts[row.index] for row in rows]


def read_sample(parts: Sequence[Part], storage: Storage, schema: pa.Schema, columns: Sequence[str]) -> list[Place]:
    """Rows from at most `PLACES` places of the input, in order; every place stands for about as many rows.

    Reads only `columns`, of at most a few MiB a place. An input of up to `PLACES` × `ROWS_OF_A_PLACE` rows is read
    whole if its rows are small.
    """
    files = _whole_files(parts)
    total = sum(file.rows for file in files)
    places = min(PLACES, total)
    ends = [total * number // places for number in range(places + 1)]
    sample = []
    for first, end in pairwise(ends):
        run = _run(files, storage, first, end)
        table = keep_trying(partial(read_rows, run, storage, schema, list(columns)))
        sample.append(Place(run, (end - first) / total, take_evenly(table, ROWS_OF_A_PLACE)))
    return sample


def spread_cells(parts: Sequence[Part], crossing: Crossing, count: int) -> list[Part]:
    """At most `count` rows of a crossing, each as a part of one row, in which the values of all lists occur about as
    often as each other."""
    total = sum(part.rows for part in parts)
    numbers = _scattered(total, max(count, _CANDIDATES))
    values = [crossing.repeated_rows(number, number + 1).to_pylist()[0] for number in numbers]
    seen: Counter[tuple[str, Any]] = Counter()
    left = dict(zip(numbers, values, strict=True))
    chosen: list[int] = []
    for _ in range(min(count, len(numbers))):
        chosen.append(min(left, key=lambda number: sum(seen[item] for item in left[number].items())))
        seen.update(left.pop(chosen[-1]).items())
    return [_row_at(parts, number) for number in sorted(chosen)]


def take_evenly(table: pa.Table, most: int) -> pa.Table:
    """At most `most` rows of the table, spread over it."""
    if table.num_rows <= most:
        return table
    return table.take(pa.array(sorted(_scattered(table.num_rows, most)), pa.int64()))


def _scattered(total: int, most: int) -> list[int]:
    """At most `most` different numbers below `total`, spread evenly but not periodically: an input whose rows repeat
    some values in turn would show only a few of them at equal distances. Each further number lies in one of the largest
    gaps (multiples of the golden ratio modulo 1)."""
    if total <= most:
        return list(range(total))
    return list(dict.fromkeys(int(total * (index * _GOLDEN % 1)) for index in range(most)))


def _whole_files(parts: Sequence[Part]) -> list[Part]:
    """The parts of each file joined to one, in the order of the input."""
    files: dict[str, Part] = {}
    for part in parts:
        first = files.setdefault(part.file.uri, part)
        files[part.file.uri] = replace(first, stop=part.stop)
    return list(files.values())


def _run(files: Sequence[Part], storage: Storage, first: int, end: int) -> Part:
    """The rows of one file to read for the rows `first` to `end` of the input: those around their middle."""
    row = _row_at(files, (first + end) // 2)
    file = next(file for file in files if file.index == row.index)
    wanted = max(_FEW_ROWS, _BYTES_OF_A_PLACE // max(1, file.row_bytes))
    if wanted >= end - first:  # all rows of the place that lie in this file
        origin = (first + end) // 2 - row.start  # the number in the input of the file's row 0
        return replace(file, start=max(file.start, first - origin), stop=min(file.stop, end - origin))
    start = row.start
    if file.crossing is None and start * max(1, file.row_bytes) > _MAX_SKIPPED_BYTES:
        start = _start_of_group(file, start, storage)
    return replace(file, start=start, stop=min(file.stop, start + wanted))


def _start_of_group(file: Part, row: int, storage: Storage) -> int:
    """The first row of the row group of `row`, or `row` itself if little lies between."""

    def read() -> pq.FileMetaData:
        with storage.open(file.file.uri) as opened:
            return pq.read_metadata(opened)

    try:
        metadata = keep_trying(read)
    except pa.ArrowInvalid:  # no Parquet file
        return row
    sizes = (metadata.row_group(index).num_rows for index in range(metadata.num_row_groups))
    begin = max(start for start in accumulate(sizes, initial=0) if start <= row)
    return row if (row - begin) * max(1, file.row_bytes) <= _MAX_SKIPPED_BYTES else begin


def _row_at(parts: Sequence[Part], number: int) -> Part:
    """Row `number` of the whole input as a part of one row."""
    for part in parts:
        if number < part.rows:
            return replace(part, start=part.start + number, stop=part.start + number + 1)
        number -= part.rows
    raise IndexError(number)
