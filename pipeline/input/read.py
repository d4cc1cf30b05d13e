"""Reads the rows of one part from its input file, or makes those of a crossing.

The rows get the columns of the whole input (`conform.py`), and two are added: the part's index, and the
repetition of each row (`repetitions.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tirazh.errors import InputError
from tirazh.pipeline import schema
from tirazh.pipeline.crossing.crossing import Crossing
from tirazh.pipeline.crossing.declaration import MAX_ROWS
from tirazh.pipeline.input.batches import read_batches
from tirazh.pipeline.input.damage import find_damage, is_unsupported
from tirazh.pipeline.input.empty import EMPTY
from tirazh.pipeline.input.listing.without_parquet import is_read_as_text
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.schemas.arrow_types import READ_OPTIONS, to_transport, with_metadata, without_columns
from tirazh.pipeline.input.schemas.conform import conform
from tirazh.pipeline.input.schemas.int96 import int96_columns, refuse_nanoseconds
from tirazh.pipeline.input.text_files.tables import read_table
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, is_remote, keep_trying
from tirazh.pipeline.storage.secrets import redact

_BUFFER_BYTES = 1 << 20
# In an object store every read is a request, which takes about as long as the transfer of several
# MiB. Row groups of up to this size (compressed) are fetched at once, in a few large requests; of
# larger ones the column chunks are streamed, with buffers of this size in total.
_MAX_FETCHED_BYTES = 128 << 20
# Fetching at once also fetches the rows behind the part: at most this much.
_MAX_UNUSED_BYTES = 32 << 20
_MAX_BUFFER_BYTES = 8 << 20


def read_part(
    part: Part,
    storage: Storage,
    columns: pa.Schema | None = None,
    repetitions: NDArray[np.int32] | None = None,
) -> pa.Table:
    """Read the rows of `part`, with the columns `schema.PART` and `schema.REPETITION` added.

    `columns` are those of the whole input, None for those of the file. `repetitions` are those of its rows in the file,
    None if all are 0. Raises InputError if the file has changed since the job was planned, if it is damaged, or if a
    value does not go into the columns.
    """
    for each in part.ranges:
        if each.has_file and not keep_trying(partial(storage.is_same, each.file)):
            raise InputError(
                f"{show_uri(each.file.uri)} has changed since the job was planned; run the same command again, which "
                "compares it with the finished rows"
            )
    table = keep_trying(lambda: read_rows(part, storage, columns))
    repetitions = repetitions_in(part, repetitions)
    table = table.append_column(schema.PART, pa.array([part.index] * part.rows, pa.int32()))
    return table.append_column(schema.REPETITION, pa.array(repetitions, pa.int32()))


def read_rows(
    part: Part, storage: Storage, columns: pa.Schema | None = None, only: Sequence[str] | None = None
) -> pa.Table:
    """Read the rows of `part` from the current file, whatever its version; only the columns `only`, if given.

    `columns` are those of the whole input, None for those of the file. Raises InputError if the file is damaged
    or too short, or if a value does not go into the columns.
    """
    if part.file.uri == EMPTY:
        table = (columns if columns is not None else pa.schema([])).empty_table()
        return table if only is None else table.select(list(only))
    if part.pieces:
        return pa.concat_tables([read_rows(piece, storage, columns, only) for piece in part.pieces])
    if part.failed_rows is not None and columns is not None and only is None:
        only = columns.names  # of the columns of a part file those of the input
    if part.left_out is not None:
        return read_rows(replace(part, left_out=None), storage, columns, only).take(part.left_out.others())
    if part.crossing is not None:
        return _read_crossed(part, part.crossing, storage, columns, only)
    if is_read_as_text(storage, part.file):
        return _read_text_rows(part, storage, columns, only)
    with storage.open(part.file.uri) as file, _readable(part, storage):
        metadata = pq.read_metadata(file)
        groups, skip = _groups_of(metadata, part)
        reading = _how_to_read(metadata, groups, skip + part.rows, only, is_remote=is_remote(part.file.uri))
        parquet = pq.ParquetFile(file, metadata=metadata, **reading, **READ_OPTIONS)
        # Streamed: the part may be a small share of a row group that does not fit in memory.
        batches = list(read_batches(parquet, groups, skip=skip, rows=part.rows, row_bytes=part.row_bytes, only=only))
        if sum(batch.num_rows for batch in batches) < part.rows:
            raise InputError(f"{show_uri(part.file.uri)} has become shorter since the job was planned")
        table = pa.Table.from_batches(batches)
        if int96_columns(metadata):
            exact = pq.ParquetFile(file, metadata=metadata, **reading)
            refuse_nanoseconds(table, exact, groups, skip, part.file.uri)
        if columns is not None:
            wanted = columns if only is None else pa.schema([columns.field(name) for name in only])
            table = conform(table, wanted, part.file, part.start)
        return to_transport(table)


def _read_crossed(
    part: Part, crossing: Crossing, storage: Storage, columns: pa.Schema | None, only: Sequence[str] | None
) -> pa.Table:
    if not part.has_file:
        return to_transport(crossing.rows(part.start, part.stop, only))
    varied = [name for name in crossing.names if only is None or name in only]
    table = to_transport(crossing.repeated_rows(part.start, part.stop, varied))
    of_file, names = part.of_file, None if only is None else [name for name in only if name not in crossing.names]
    if names != []:
        own = None if columns is None else without_columns(columns, crossing.names)
        rows = np.arange(part.start, part.stop) // part.rows_per_file_row - of_file.start
        read = read_rows(of_file, storage, own, names).take(rows)
        table = pa.Table.from_arrays(
            [*read.columns, *table.columns], schema=with_metadata([*read.schema, *table.schema], read.schema.metadata)
        )
    return table if only is None else table.select(list(only))


def _read_text_rows(part: Part, storage: Storage, columns: pa.Schema | None, only: Sequence[str] | None) -> pa.Table:
    table = read_table(storage, part.file)
    if table.num_rows < part.stop:
        raise InputError(f"{show_uri(part.file.uri)} has become shorter since the job was planned")
    table = table.slice(part.start, part.rows)
    if only is not None:
        table = table.select([name for name in only if name in table.column_names])
    if columns is not None:
        wanted = columns if only is None else pa.schema([columns.field(name) for name in only])
        table = conform(table, wanted, part.file, part.start)
    return to_transport(table)


def repetitions_in(part: Part, of_file: NDArray[np.int32] | None) -> NDArray[np.int32]:
    """The repetitions of the rows of a part. `of_file` are those of its rows in the file, None if all are 0.

    In a product with a crossing, the rows of a cell that an input row becomes are numbered on from those of the
    earlier input rows with the same content.
    """
    if part.crossing is None:
        return np.zeros(part.rows, np.int32) if of_file is None else of_file
    if not part.has_file:
        return part.crossing.repetitions(part.start, part.stop)
    each, per_cell = part.rows_per_file_row, part.crossing.rows_per_cell
    rows = np.arange(part.start, part.stop)
    earlier = 0 if of_file is None else of_file.astype(np.int64)[rows // each - part.of_file.start] * per_cell
    numbers = earlier + rows % per_cell
    if numbers.max(initial=0) > MAX_ROWS:
        raise InputError(f"{show_uri(part.file.uri)}: more than {MAX_ROWS} rows have the same prompt and the same cell")
    return numbers.astype(np.int32)


def _how_to_read(
    metadata: pq.FileMetaData, groups: Sequence[int], rows: int, only: Sequence[str] | None, *, is_remote: bool
) -> dict[str, Any]:
    """Choose how pyarrow reads the first `rows` rows of `groups`: how many requests, and how much memory.

    Without a read buffer of bounded size, a column chunk is read into memory as a whole.
    """
    if not is_remote or not groups:
        return {"buffer_size": _BUFFER_BYTES, "pre_buffer": False}
    chosen = [metadata.row_group(index) for index in groups]
    columns = [group.column(index) for group in chosen for index in range(group.num_columns)]
    size = sum(column.total_compressed_size for column in columns if only is None or column.path_in_schema in only)
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
        if is_unsupported(error):
            raise InputError(
                f"rows {part.start} to {part.stop - 1} of {show_uri(part.file.uri)} cannot be read with pyarrow "
                f"{pa.__version__}, which does not support something in them ({_first_line(error)}); the file may be "
                "whole: write it again with simpler columns or encodings"
            ) from error
        place = find_damage(part.file.uri, range(part.start, part.stop), storage)
        raise InputError(
            f"{show_uri(part.file.uri)} is damaged or has changed since the job was planned, at rows {part.start} to "
            f"{part.stop - 1}{f' ({place})' if place else ''}: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return redact(next(iter(str(error).splitlines()), type(error).__name__)[:200])


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
