"""Decodes rows of a Parquet file in batches whose size follows the bytes of the rows.

A batch holds about `BATCH_BYTES`, or a single row that is larger. The width of the rows is an average that
was estimated, so a batch may be larger where wide rows stand together; those behind it are then smaller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.pipeline.input.schemas.arrow_types import read_together

BATCH_BYTES = 32 << 20
MAX_BATCH_ROWS = 8_192
# Reading continues with smaller batches after one that is larger than this many times BATCH_BYTES.
_TOLERANCE = 2


def read_batches(
    parquet: pq.ParquetFile,
    groups: Sequence[int],
    *,
    skip: int,
    rows: int,
    row_bytes: int,
    only: Sequence[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield the `rows` rows behind the first `skip` of the row groups `groups`, or fewer if they end before.

    `row_bytes` is the estimated size of a decoded row, 0 if it is unknown; `only` are the columns that are read,
    None for all. Raises what pyarrow raises; its
    ArrowNotImplementedError (nested columns of more than 2 GiB in one batch) only for a batch of one row.
    """
    size, done = _first_size(row_bytes, skip + rows), 0
    while done < rows:
        try:
            for batch, start in _batches_from(parquet, groups, skip + done, size, only):
                wanted = batch.slice(start, rows - done)
                done += wanted.num_rows
                if wanted.num_rows:
                    yield wanted
                if done == rows:
                    return
                if (smaller := _size_after(batch, size)) < size:
                    size = smaller
                    break
            else:
                return
        except pa.ArrowNotImplementedError:
            if size == 1:
                raise
            size = max(1, size // 8)


def _first_size(row_bytes: int, needed: int) -> int:
    return max(1, min(MAX_BATCH_ROWS, needed, BATCH_BYTES // max(1, row_bytes)))


def _size_after(batch: pa.RecordBatch, size: int) -> int:
    """The rows of the next batches, after `batch` was decoded with `size` rows."""
    if batch.num_rows < 2 or batch.nbytes <= _TOLERANCE * BATCH_BYTES:
        return size
    return max(1, min(size // 2, BATCH_BYTES * batch.num_rows // batch.nbytes))


def _batches_from(
    parquet: pq.ParquetFile, groups: Sequence[int], skip: int, size: int, only: Sequence[str] | None
) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Yield the batches of `groups`, and for each the number of its rows that belong to the first `skip` rows.

    A row group of skipped rows only is not decoded.
    """
    left = list(groups)
    while left and skip >= (rows := parquet.metadata.row_group(left[0]).num_rows):
        skip -= rows
        del left[0]
    columns = None if only is None else list(only)
    for together in read_together(parquet.schema_arrow, left):
        for batch in parquet.iter_batches(batch_size=size, row_groups=together, columns=columns):
            yield batch, min(skip, batch.num_rows)
            skip = max(0, skip - batch.num_rows)
