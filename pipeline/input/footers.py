"""Reads Parquet footers: the schema, and the rows and bytes of every row group.

It usually takes one request per file: the end of the file is fetched at once and parsed in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError, did_you_mean
from tirazh.pipeline.input.arrow_types import READ_OPTIONS
from tirazh.pipeline.input.parquet_schema import read_elements
from tirazh.pipeline.input.planned_schema import planned_schema
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage

_MAGIC = b"PAR1"
# The footer of a file with few row groups and columns is smaller; a larger one takes a second
# request.
_FIRST_GUESS = 1 << 16
_THREADS = 16


@dataclass(frozen=True, slots=True)
class RowGroup:
    """`text_bytes` are those of the columns in the prompt, `all_bytes` those of all columns; both uncompressed."""

    rows: int
    text_bytes: int
    all_bytes: int


@dataclass(frozen=True, slots=True)
class Footer:
    """The footer of one input file. `schema` is that of its columns in the output (`planned_schema`)."""

    file: StoredFile
    schema: pa.Schema
    row_groups: tuple[RowGroup, ...]

    @property
    def rows(self) -> int:
        """The number of rows in the file."""
        return sum(group.rows for group in self.row_groups)


def read_footers(storage: Storage, files: Sequence[StoredFile], *, text_columns: Iterable[str]) -> list[Footer]:
    """Read the footers of `files` in parallel, and return them in order.

    `text_columns` are the columns in the prompt. Raises InputError, naming the file, for one that
    is empty, truncated, encrypted or not Parquet.
    """
    wanted = frozenset(text_columns)
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(lambda file: _read_footer(storage, file, wanted), files))


def check_text_column(schema: pa.Schema, name: str, *, flag: str) -> None:
    """Raise InputError unless column `name` exists, once, and contains strings.

    `flag` is the flag that named it.
    """
    if name not in schema.names:
        hint = did_you_mean(name, schema.names) or f"; the columns are {', '.join(schema.names)}"
        raise InputError(f"the input has no column {name!r} ({flag}){hint}")
    if schema.names.count(name) > 1:
        raise InputError(f"the input has several columns {name!r}; rename all but one")
    if not is_string(schema.field(name).type):
        raise InputError(f"column {name!r} ({flag}) must contain strings, not {schema.field(name).type}")


def is_string(arrow_type: pa.DataType) -> bool:
    """Whether the Arrow type is text, also as JSON or dictionary-encoded."""
    if isinstance(arrow_type, pa.JsonType):
        return is_string(arrow_type.storage_type)
    values = arrow_type.value_type if pa.types.is_dictionary(arrow_type) else arrow_type
    return bool(pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_string_view(values))


def is_binary(arrow_type: pa.DataType) -> bool:
    """Whether the Arrow type is bytes that are not text."""
    return bool(
        pa.types.is_binary(arrow_type)
        or pa.types.is_large_binary(arrow_type)
        or pa.types.is_fixed_size_binary(arrow_type)
    )


def _read_footer(storage: Storage, file: StoredFile, text_columns: frozenset[str]) -> Footer:
    tail = _fetch(storage, file)
    try:
        parquet = pq.ParquetFile(pa.BufferReader(tail), **READ_OPTIONS)
        metadata = parquet.metadata
        groups = tuple(_row_group(metadata.row_group(index), text_columns) for index in range(metadata.num_row_groups))
        # A damaged footer may still parse, with impossible values.
        if any(min(group.rows, group.text_bytes, group.all_bytes) < 0 for group in groups):
            raise ValueError("it has a negative number of rows or bytes")
        return Footer(file, planned_schema(parquet.schema_arrow, read_elements(tail)), groups)
    except pa.ArrowNotImplementedError as error:
        raise InputError(f"{show_uri(file.uri)} has a column that pyarrow cannot read: {_first_line(error)}") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{show_uri(file.uri)} has a damaged Parquet footer: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def _fetch(storage: Storage, file: StoredFile) -> bytes:
    if file.size == 0:
        raise InputError(f"{show_uri(file.uri)} is empty (0 bytes), not a Parquet file")
    tail = storage.read_tail(file, _FIRST_GUESS)
    # A Parquet file ends with the footer, its length (4 bytes) and the magic number (4 bytes).
    if tail[-4:] != _MAGIC or len(tail) < 12:
        problem = "an encrypted Parquet file" if tail[-4:] == b"PARE" else "not a Parquet file, or it is truncated"
        raise InputError(f"{show_uri(file.uri)} is {problem}")
    needed = int.from_bytes(tail[-8:-4], "little") + 8
    return tail if needed <= len(tail) else storage.read_tail(file, needed)


def _row_group(group: pq.RowGroupMetaData, text_columns: frozenset[str]) -> RowGroup:
    text_bytes = 0
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema in text_columns:
            text_bytes += column.total_uncompressed_size
    return RowGroup(group.num_rows, text_bytes, group.total_byte_size)
