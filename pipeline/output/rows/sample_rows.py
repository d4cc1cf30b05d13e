"""One output row per sample: made of the rows of the input as late as possible, a bounded number at once.

The rows between the steps are those of the input, and each has the lists of its samples' results; every output row
repeats all columns of the input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tirazh.pipeline import schema

# Of the tables that `sample_rows` yields. Each becomes a row group, so its rows are a power of two: the file does
# not depend on a few bytes that Arrow allocates or not.
MAX_BYTES = 64 << 20
MAX_ROWS = 1 << 16


def sample_rows(table: pa.Table, samples: int) -> Iterator[pa.Table]:
    """Yield the rows of a part with one row per sample: the samples of a row together and in order.

    The columns `schema.PER_SAMPLE` of `table` [N] have a list of `samples` values in each row, or null; those that
    are yielded, N · `samples` rows in all, have a list of one. `schema.SAMPLE_NUMBER` is added. The error of a sample
    becomes that of its row.
    """
    lists = [name for name in schema.PER_SAMPLE if name in table.column_names]
    size, rows = _rows_at_once(table, samples, lists), samples * table.num_rows
    for start in range(0, rows, size):
        yield _take(table, samples, lists, np.arange(start, min(start + size, rows)))


def _rows_at_once(table: pa.Table, samples: int, lists: Sequence[str]) -> int:
    in_lists = sum(table.column(name).nbytes for name in lists)
    row_bytes = ((table.nbytes - in_lists) * samples + in_lists) // max(1, samples * table.num_rows)
    most = min(MAX_ROWS, max(1, MAX_BYTES // max(1, row_bytes)))
    return int(1 << (most.bit_length() - 1))


def _take(table: pa.Table, samples: int, lists: Sequence[str], rows_M: NDArray[np.int64]) -> pa.Table:
    """The output rows of the numbers `rows_M`, which are consecutive."""
    first = int(rows_M[0]) // samples
    part = table.slice(first, int(rows_M[-1]) // samples + 1 - first)
    source_M, sample_M = rows_M // samples - first, rows_M % samples
    taken = part.drop_columns(list(lists)).take(source_M)
    errors: Any = taken.column(schema.ROW_ERROR)
    has_failed_M = np.zeros(len(rows_M), np.bool_)
    if schema.SAMPLE_ERRORS in lists:
        values, _ = _values(part.column(schema.SAMPLE_ERRORS), source_M, sample_M)
        errors = pc.coalesce(errors, values)
    if schema.COMPLETION_IDS in lists:
        # A sample with an error may have a completion, which does not follow its constraint.
        values, _ = _values(part.column(schema.COMPLETION_IDS), source_M, sample_M)
        has_failed_M = values.is_null().to_numpy(zero_copy_only=False)
    for name in lists:
        values, is_missing_M = _values(part.column(name), source_M, sample_M)
        offsets: Any = pa.array(np.arange(len(rows_M) + 1), pa.int32())
        missing = pa.array(is_missing_M | has_failed_M)
        taken = taken.append_column(name, pa.ListArray.from_arrays(offsets, values, mask=missing))
    taken = taken.append_column(schema.SAMPLE_NUMBER, pa.array(sample_M, pa.int32()))
    return taken.set_column(taken.column_names.index(schema.ROW_ERROR), schema.ROW_ERROR, errors)


def _values(
    column: pa.ChunkedArray[Any], source_M: NDArray[np.int64], sample_M: NDArray[np.int64]
) -> tuple[pa.Array[Any], NDArray[np.bool_]]:
    """The value of each sample in the lists of its row, and whether the row has no list."""
    lists: Any = pa.concat_arrays(column.chunks)
    is_missing_M = lists.is_null().to_numpy(zero_copy_only=False)[source_M]
    starts_M = lists.offsets.to_numpy(zero_copy_only=False)[source_M]
    places = pa.array(starts_M + sample_M, pa.int64(), mask=is_missing_M)
    return lists.values.take(places), is_missing_M
