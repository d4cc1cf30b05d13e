"""Finds the rows of an output with the least certain answers, and the first row of every error.

Only the columns of confidences and errors are read of every part, 4 bytes a row and question. Of an output with very
many rows some parts are read, evenly spaced over it, and the page says so. Then the few rows that were found are read
with their texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError, StorageError
from tirazh.pipeline.column_values import values_of
from tirazh.pipeline.input.schemas.arrow_types import READ_OPTIONS, take
from tirazh.pipeline.storage.filesystem import Storage

MOST_ROWS = 1_000_000
MOST_PARTS = 1_000
LEAST_CERTAIN = 20
MOST_ERRORS = 10
_THREADS = 8


@dataclass(frozen=True, order=True, slots=True)
class Place:
    """Where a row is: the index of its part and its index in the part."""

    part: int
    row: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """What was found. `least` has the places of the least certain rows of every question, the least certain first;
    `errors` the first row of every text of an error. `scanned` of the `rows` of the output were read. `values` are
    those of the columns of the rows that were found.
    """

    least: Mapping[str, Sequence[Place]] = field(default_factory=dict)
    errors: Mapping[str, Place] = field(default_factory=dict)
    scanned: int = 0
    rows: int = 0
    values: Mapping[Place, Mapping[str, Any]] = field(default_factory=dict)


def scan_output(
    storage: Storage,
    parts: Sequence[tuple[str, int]],
    *,
    confidences: Mapping[str, str],
    error: str | None,
    shown: Sequence[str],
) -> Scan | None:
    """Find these rows of an output.

    `parts` are (URI, rows) of all part files, `confidences` the columns of the confidences by question, `error` the
    column of errors, or None to look for none. `shown` are the columns that the page shows. Returns None if a file
    cannot be read: a page is written without these rows then.
    """
    if not confidences and error is None:
        return Scan(rows=sum(rows for _, rows in parts))
    chosen = _choose([rows for _, rows in parts])

    def scan(index: int) -> _Found:
        return _scan_part(storage, parts[index][0], index, confidences, error)

    try:
        with ThreadPoolExecutor(_THREADS) as threads:
            found = list(threads.map(scan, chosen))
        least = {name: _least(each.least.get(name, []) for each in found) for name in confidences}
        errors = _first_errors(found)
        places = sorted({place for each in least.values() for place in each} | set(errors.values()))
        values = _read_rows(storage, parts, places, shown)
    except (InputError, StorageError, pa.ArrowException, OSError, KeyError, IndexError, TypeError):
        return None
    total = sum(rows for _, rows in parts)
    return Scan(
        least={name: places for name, places in least.items() if places},
        errors=errors,
        scanned=sum(parts[index][1] for index in chosen),
        rows=total,
        values=values,
    )


@dataclass(frozen=True, slots=True)
class _Found:
    least: dict[str, list[tuple[float, Place]]]
    errors: dict[str, Place]


def _choose(rows: Sequence[int]) -> list[int]:
    """The parts to read: all of them, or evenly spaced ones with about `MOST_ROWS` rows together."""
    total = sum(rows)
    if total <= MOST_ROWS and len(rows) <= MOST_PARTS:
        return list(range(len(rows)))
    wanted = max(1, min(MOST_PARTS, int(len(rows) * MOST_ROWS / max(1, total))))
    return sorted({int(index) for index in np.linspace(0, len(rows) - 1, wanted)})


def _scan_part(storage: Storage, uri: str, index: int, confidences: Mapping[str, str], error: str | None) -> _Found:
    with storage.open(uri) as file:
        parquet = pq.ParquetFile(file, **READ_OPTIONS)
        names = parquet.schema_arrow.names
        wanted = [name for name in dict.fromkeys([*confidences.values(), *([error] if error else [])]) if name in names]
        table = parquet.read(columns=wanted)
    least = {question: _smallest(table.column(name), index) for question, name in confidences.items() if name in wanted}
    errors: dict[str, Place] = {}
    if error in wanted:
        column: Any = table.column(error)
        for row in np.flatnonzero(column.is_valid().to_numpy()):
            errors.setdefault(str(column[int(row)].as_py()), Place(index, int(row)))
            if len(errors) == MOST_ERRORS:
                break
    return _Found(least, errors)


def _smallest(column: pa.ChunkedArray[Any], part: int) -> list[tuple[float, Place]]:
    numbers: Any = column.cast(pa.float64())
    values = numbers.fill_null(np.nan).to_numpy()
    rows = np.flatnonzero(np.isfinite(values))
    if len(rows) > LEAST_CERTAIN:
        border = np.partition(values[rows], LEAST_CERTAIN - 1)[LEAST_CERTAIN - 1]
        rows = rows[values[rows] <= border]
    order = rows[np.argsort(values[rows], kind="stable")][:LEAST_CERTAIN]
    return [(float(values[row]), Place(part, int(row))) for row in order]


def _least(found: Iterable[Sequence[tuple[float, Place]]]) -> list[Place]:
    return [place for _, place in sorted(each for part in found for each in part)[:LEAST_CERTAIN]]


def _first_errors(found: Sequence[_Found]) -> dict[str, Place]:
    errors: dict[str, Place] = {}
    for each in found:
        for text, place in each.errors.items():
            if len(errors) < MOST_ERRORS:
                errors.setdefault(text, place)
    return errors


def _read_rows(
    storage: Storage, parts: Sequence[tuple[str, int]], places: Sequence[Place], shown: Sequence[str]
) -> dict[Place, dict[str, Any]]:
    by_part: dict[int, list[int]] = {}
    for place in places:
        by_part.setdefault(place.part, []).append(place.row)

    def read(part: int) -> dict[Place, dict[str, Any]]:
        rows = _read_part_rows(storage, parts[part][0], by_part[part], shown)
        return {Place(part, row): values for row, values in rows.items()}

    with ThreadPoolExecutor(_THREADS) as threads:
        return {place: values for each in threads.map(read, by_part) for place, values in each.items()}


def _read_part_rows(storage: Storage, uri: str, rows: Sequence[int], shown: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Some rows of a part, in increasing order; only the row groups that hold one are read."""
    found: dict[int, dict[str, Any]] = {}
    with storage.open(uri) as file:
        parquet = pq.ParquetFile(file, **READ_OPTIONS)
        names = [name for name in shown if name in parquet.schema_arrow.names]
        first = 0
        for group in range(parquet.num_row_groups):
            stop = first + parquet.metadata.row_group(group).num_rows
            inside = [row for row in rows if first <= row < stop]
            if inside:
                table = take(parquet.read_row_group(group, columns=names), [row - first for row in inside])
                columns: dict[str, list[Any]] = {name: values_of(table.column(name)) for name in names}
                for number, row in enumerate(inside):
                    found[row] = {name: values[number] for name, values in columns.items()}
            first = stop
    return found
