"""Finds the row group, column and row of a Parquet file that cannot be decoded, for the sentence about it."""

from __future__ import annotations

from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import TirazhError
from tirazh.pipeline.input.schemas.arrow_types import READ_OPTIONS
from tirazh.pipeline.storage.filesystem import Storage

_BATCH_ROWS = 256
_BUFFER_BYTES = 1 << 20


def is_unsupported(error: Exception) -> bool:
    """Whether pyarrow has raised `error` for something in a file that it does not implement; the file may be whole."""
    # The encodings that its decoders lack are reported by an OSError.
    return isinstance(error, pa.ArrowNotImplementedError) or "not yet implemented" in str(error).lower()


def find_damage(uri: str, rows: range, storage: Storage) -> str:
    """Return `row group 2 of 3, column 'text', from row 128`, or "" if every column can be decoded by itself.

    Reads the row groups that contain `rows` again, one column after the other. Rows are counted from 0 in the file,
    row groups from 1. Raises nothing: it is called while another error is handled.
    """
    try:
        with storage.open(uri) as file:
            return _find(file, rows)
    except (TirazhError, pa.ArrowException, OSError):
        return ""


def _find(file: IO[bytes], rows: range) -> str:
    metadata = pq.read_metadata(file)
    first = 0
    for group in range(metadata.num_row_groups):
        end = first + metadata.row_group(group).num_rows
        if first < rows.stop and end > rows.start:
            for column in metadata.schema.to_arrow_schema().names:
                read = _rows_that_decode(file, metadata, group, column)
                if read is not None:
                    name = f"row group {group + 1} of {metadata.num_row_groups}, column {column!r}"
                    return f"{name}, from row {first + read}"
        first = end
    return ""


def _rows_that_decode(file: IO[bytes], metadata: pq.FileMetaData, group: int, column: str) -> int | None:
    """Return how many rows of a column chunk were decoded before it failed, or None if all were."""
    parquet = pq.ParquetFile(file, metadata=metadata, buffer_size=_BUFFER_BYTES, pre_buffer=False, **READ_OPTIONS)
    read = 0
    try:
        for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group], columns=[column]):
            read += batch.num_rows
    except (pa.ArrowException, OSError):
        return read
    return None
