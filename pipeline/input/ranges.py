"""Whether the values of a column go into a wider type, from the statistics in the footers.

int64 goes into float64, and microseconds into nanoseconds, only within some bounds. Files are read again for
these columns, and only those whose type is widened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError, StorageError
from tirazh.pipeline.input.footers import Footer
from tirazh.pipeline.storage.filesystem import Storage

Range = tuple[int, int]
# Returns the range of an integer or timestamp column in each file, None where it is not known.
RangeReader = Callable[[Sequence[Footer], str], list[Range | None]]

_THREADS = 16
_MAX_INT64 = (1 << 63) - 1
_MAX_EXACT_IN_FLOAT64 = 1 << 53
_NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


def range_reader(storage: Storage) -> RangeReader:
    """Return a function that reads the footers of files for the smallest and largest value of a column."""

    def read(footers: Sequence[Footer], column: str) -> list[Range | None]:
        with ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(partial(_read_range, storage, column), footers))

    return read


def _read_range(storage: Storage, name: str, footer: Footer) -> Range | None:
    try:
        with storage.open(footer.file.uri) as file:
            metadata = pq.read_metadata(file)
    except (InputError, StorageError, pa.ArrowException, OSError, ValueError):
        return None  # the file is read again for its rows, which reports what is wrong
    found = [_range_of(metadata.row_group(index), name) for index in range(metadata.num_row_groups)]
    known = [bounds for bounds in found if bounds is not None]
    return (min(low for low, _ in known), max(high for _, high in known)) if known else None


def _range_of(group: pq.RowGroupMetaData, name: str) -> Range | None:
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema == name and "." not in name:
            statistics = column.statistics
            if statistics is None or not statistics.has_min_max:
                return None
            low, high = statistics.min_raw, statistics.max_raw
            return (low, high) if isinstance(low, int) and isinstance(high, int) else None
    return None


def may_overflow(source: Any, target: Any) -> bool:
    """Whether the type `target`, to which `source` is widened, does not hold all values of `source`."""
    if pa.types.is_timestamp(source) and pa.types.is_timestamp(target):
        return bool(source.unit != target.unit and target.unit == "ns")
    return bool(pa.types.is_integer(source) and source.bit_width == 64 and pa.types.is_float64(target))


def fits(bounds: Range, source: Any, target: Any) -> bool:
    """Whether the values of a column of type `source` go into `target` exactly, where `may_overflow`."""
    low, high = bounds
    if pa.types.is_integer(source):
        # Parquet stores unsigned integers in signed ones: large ones look negative.
        is_signed = pa.types.is_signed_integer(source)
        return high <= _MAX_EXACT_IN_FLOAT64 and low >= (-_MAX_EXACT_IN_FLOAT64 if is_signed else 0)
    # Parquet has no seconds: it stores them as milliseconds.
    factor = _NANOSECONDS["ms" if source.unit == "s" else source.unit]
    return -_MAX_INT64 <= low * factor and high * factor <= _MAX_INT64
