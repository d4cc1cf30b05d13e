"""What Parquet footers tell without reading a row: schema, rows and bytes of every row group. Called by `plan.py`.

One request a file: the tail is fetched in one piece and parsed from memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError, did_you_mean
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage

_MAGIC = b"PAR1"
_FIRST_GUESS = 1 << 16
_THREADS = 16


@dataclass(frozen=True, slots=True)
class RowGroup:
    """`text_bytes` counts the columns the prompt is made of, `all_bytes` every column; both uncompressed."""

    rows: int
    text_bytes: int
    all_bytes: int


@dataclass(frozen=True, slots=True)
class Footer:
    """One input file as its footer describes it. `schema` carries no metadata."""

    file: StoredFile
    schema: pa.Schema
    row_groups: tuple[RowGroup, ...]

    @property
    def rows(self) -> int:
        return sum(group.rows for group in self.row_groups)


def read_footers(storage: Storage, files: Sequence[StoredFile], *, text_columns: Iterable[str]) -> list[Footer]:
    """Footers of `files`, in their order, read by several threads. Raises InputError naming a file that is empty,
    cut short, encrypted or not Parquet."""
    wanted = frozenset(text_columns)
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(lambda file: _read_footer(storage, file, wanted), files))


def check_same_schema(footers: Sequence[Footer]) -> pa.Schema:
    """The schema all files share. Raises InputError naming the first file that differs, and how."""
    first = footers[0]
    for other in footers[1:]:
        if other.schema.equals(first.schema):
            continue
        raise InputError(
            f"{show_uri(other.file.uri)} has another schema than {show_uri(first.file.uri)}: "
            f"{_difference(first.schema, other.schema)}"
        )
    return first.schema


def check_text_column(schema: pa.Schema, name: str, *, flag: str) -> None:
    """Raise InputError unless column `name` is there and holds strings."""
    if name not in schema.names:
        hint = did_you_mean(name, schema.names) or f"; the columns are {', '.join(schema.names)}"
        raise InputError(f"the input has no column {name!r} ({flag}){hint}")
    if schema.names.count(name) > 1:
        raise InputError(f"the input has several columns {name!r}; rename all but one")
    if not is_string(schema.field(name).type):
        raise InputError(f"column {name!r} ({flag}) must hold strings, not {schema.field(name).type}")


def is_string(kind: pa.DataType) -> bool:
    """Whether a column of this Arrow type holds text, dictionary-encoded or not."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_binary(kind: pa.DataType) -> bool:
    """Whether a column of this Arrow type holds bytes that are not text."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _read_footer(storage: Storage, file: StoredFile, text_columns: frozenset[str]) -> Footer:
    tail = _fetch(storage, file)
    try:
        metadata = pq.read_metadata(pa.BufferReader(tail))
        groups = tuple(_row_group(metadata.row_group(index), text_columns) for index in range(metadata.num_row_groups))
        schema = metadata.schema.to_arrow_schema().remove_metadata()
        if any(min(group.rows, group.text_bytes, group.all_bytes) < 0 for group in groups):
            raise ValueError("it counts fewer rows or bytes than none")
        return Footer(file, pa.schema([field.remove_metadata() for field in schema]), groups)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise InputError(f"{show_uri(file.uri)} has a damaged Parquet footer: {reason}") from error


def _fetch(storage: Storage, file: StoredFile) -> bytes:
    if file.size == 0:
        raise InputError(f"{show_uri(file.uri)} is empty (0 bytes), not a Parquet file")
    tail = storage.read_tail(file, _FIRST_GUESS)
    if tail[-4:] != _MAGIC or len(tail) < 12:
        kind = "an encrypted Parquet file" if tail[-4:] == b"PARE" else "not a Parquet file, or it is cut short"
        raise InputError(f"{show_uri(file.uri)} is {kind}")
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
        return f"column {added[0]!r} is new"
    for field in other:
        if len(first.get_all_field_indices(field.name)) == 1 and field.type != first.field(field.name).type:
            return f"column {field.name!r} is {field.type}, not {first.field(field.name).type}"
    return "its columns come in another order"
