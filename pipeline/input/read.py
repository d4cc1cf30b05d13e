"""Reads the rows of one part from its input file.

All columns are read unchanged, and two are added: the part's index, and a key of each row. The key
depends only on the file's path below the input and on the row's number in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError
from tirazh.pipeline import schema
from tirazh.pipeline.input.arrow_types import READ_OPTIONS, read_together, to_transport
from tirazh.pipeline.input.damage import find_damage
from tirazh.pipeline.input.int96 import refuse_nanoseconds
from tirazh.pipeline.input.overrides import hash_63
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, is_remote, keep_trying
from tirazh.pipeline.storage.secrets import redact

_BATCH_ROWS = 8_192
_BUFFER_BYTES = 1 << 20
# In an object store every read is a request, which takes about as long as the transfer of several
# MiB. Row groups of up to this size (compressed) are fetched at once, in a few large requests; of
# larger ones the column chunks are streamed, with buffers of this size in total.
_MAX_FETCHED_BYTES = 128 << 20
# Fetching at once also fetches the rows behind the part: at most this much.
_MAX_UNUSED_BYTES = 32 << 20
_MAX_BUFFER_BYTES = 8 << 20


def read_part(part: Part, storage: Storage) -> pa.Table:
    """Read the rows of `part`, with the columns `schema.PART` and `schema.ROW_KEY` added.

    Raises InputError if the file has changed since the job was planned, or if it is damaged.
    """
    if not keep_trying(lambda: storage.is_same(part.file)):
        raise InputError(
            f"{show_uri(part.file.uri)} has changed since the job was planned; run the same command again, which "
            "compares it with the finished rows"
        )
    table = keep_trying(lambda: read_rows(part, storage))
    keys = [row_key(part.file.key, row) for row in range(part.start, part.stop)]
    table = table.append_column(schema.PART, pa.array([part.index] * part.rows, pa.int32()))
    return table.append_column(schema.ROW_KEY, pa.array(keys, pa.int64()))


def row_key(file_key: str, row: int) -> int:
    """The key of a row. It does not depend on the cut into parts or on where the input is stored."""
    return hash_63(f"{file_key}\n{row}")


def read_rows(part: Part, storage: Storage) -> pa.Table:
    """Read the rows of `part` from the current file, whatever its version.

    Raises InputError if the file is damaged or too short.
    """
    with storage.open(part.file.uri) as file, _readable(part, storage):
        metadata = pq.read_metadata(file)
        groups, skip = _groups_of(metadata, part)
        reading = _how_to_read(metadata, groups, skip + part.rows, is_remote=is_remote(part.file.uri))
        parquet = pq.ParquetFile(file, metadata=metadata, **reading, **READ_OPTIONS)
        # Streamed: the part may be a small share of a row group that does not fit in memory.
        batches, left = [], part.rows
        size = min(_BATCH_ROWS, skip + part.rows)
        for batch in (
            batch
            for together in read_together(parquet.schema_arrow, groups)
            for batch in parquet.iter_batches(batch_size=size, row_groups=together)
        ):
            rows = batch.slice(skip, left)
            skip = max(0, skip - batch.num_rows)
            left -= rows.num_rows
            if rows.num_rows:
                batches.append(rows)
            if not left:
                break
        if left:
            raise InputError(f"{show_uri(part.file.uri)} has become shorter since the job was planned")
        table = pa.Table.from_batches(batches)
        exact = pq.ParquetFile(file, metadata=metadata, **reading)
        refuse_nanoseconds(table, exact, groups, _groups_of(metadata, part)[1], part.file.uri)
        return to_transport(table)


def _how_to_read(metadata: pq.FileMetaData, groups: Sequence[int], rows: int, *, is_remote: bool) -> dict[str, Any]:
    """Choose how pyarrow reads the first `rows` rows of `groups`: how many requests, and how much memory.

    Without a read buffer of bounded size, a column chunk is read into memory as a whole.
    """
    if not is_remote or not groups:
        return {"buffer_size": _BUFFER_BYTES, "pre_buffer": False}
    chosen = [metadata.row_group(index) for index in groups]
    size = sum(group.column(index).total_compressed_size for group in chosen for index in range(group.num_columns))
    unused = size * (1 - rows / max(1, sum(group.num_rows for group in chosen)))
    if size <= _MAX_FETCHED_BYTES and unused <= _MAX_UNUSED_BYTES:
        return {"buffer_size": 0, "pre_buffer": True}
    share = _MAX_FETCHED_BYTES // max(1, metadata.num_columns)
    return {"buffer_size": max(_BUFFER_BYTES, min(share, _MAX_BUFFER_BYTES)), "pre_buffer": False}


@contextmanager
def _readable(part: Part, storage: Storage) -> Iterator[None]:
    """Distinguish a damaged file (InputError) from an outage, which is retried for minutes.

    For data that it cannot decode Arrow raises one of its own exceptions, or an OSError without an
    errno.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if not isinstance(error, pa.ArrowException) and (type(error) is not OSError or error.errno is not None):
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        place = find_damage(part.file.uri, range(part.start, part.stop), storage)
        raise InputError(
            f"{show_uri(part.file.uri)} is damaged or has changed since the job was planned, at rows {part.start} to "
            f"{part.stop - 1}{f' ({place})' if place else ''}: {redact(reason)}"
        ) from error


def _groups_of(metadata: pq.FileMetaData, part: Part) -> tuple[list[int], int]:
    """The row groups that contain the part, and the number of rows before it in the first of them."""
    groups: list[int] = []
    row = skip = 0
    for index in range(metadata.num_row_groups):
        end = row + metadata.row_group(index).num_rows
        if row < part.stop and end > part.start:
            if not groups:
                skip = part.start - row
            groups.append(index)
        row = end
    return groups, skip
