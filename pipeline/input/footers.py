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
from tirazh.pipeline.input.column_chunks import check_column_chunks
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
    """The footer of one input file. `schema` has no metadata."""

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


def check_same_schema(footers: Sequence[Footer]) -> pa.Schema:
    """Return the schema of all files.

    Raises InputError with the first file that differs, and how it differs.
    """
    first = footers[0]
    for other in footers[1:]:
        if other.schema.equals(first.schema):
            continue
        raise InputError(
            f"{show_uri(other.file.uri)} has a different schema than {show_uri(first.file.uri)}: "
            f"{_difference(first.schema, other.schema)}"
        )
    return first.schema


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
    """Whether the Arrow type is text, dictionary-encoded or not."""
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
        metadata = pq.read_metadata(pa.BufferReader(tail))
        check_column_chunks(metadata, tail)
        groups = tuple(_row_group(metadata.row_group(index), text_columns) for index in range(metadata.num_row_groups))
        schema = metadata.schema.to_arrow_schema().remove_metadata()
        # A damaged footer may still parse, with impossible values.
        if any(min(group.rows, group.text_bytes, group.all_bytes) < 0 for group in groups):
            raise ValueError("it has a negative number of rows or bytes")
        # pandas and Spark store metadata that differs between files of the same schema.
        return Footer(file, pa.schema([field.remove_metadata() for field in schema]), groups)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise InputError(f"{show_uri(file.uri)} has a damaged Parquet footer: {reason}") from error


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


def _difference(first: pa.Schema, other: pa.Schema) -> str:
    missing = [name for name in first.names if name not in other.names]
    added = [name for name in other.names if name not in first.names]
    if missing:
        return f"column {missing[0]!r} is missing"
    if added:
        return f"column {added[0]!r} is additional"
    for field in other:
        if len(first.get_all_field_indices(field.name)) == 1 and field.type != first.field(field.name).type:
            return f"column {field.name!r} is {field.type}, not {first.field(field.name).type}"
    return "its columns are in a different order"
