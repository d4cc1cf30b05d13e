"""Reads Parquet footers: the schema, and the rows and bytes of every row group.

It usually takes one request per file: the end of the file is fetched at once and parsed in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError, did_you_mean
from tirazh.pipeline.input.column_chunks import check_column_chunks
from tirazh.pipeline.input.listing.without_parquet import is_read_as_text
from tirazh.pipeline.input.schemas.arrow_types import READ_OPTIONS, is_text
from tirazh.pipeline.input.schemas.parquet_schema import read_elements
from tirazh.pipeline.input.schemas.planned_schema import planned_schema
from tirazh.pipeline.input.text_files.tables import read_table
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage

_MAGIC = b"PAR1"
# The footer of a file with few row groups and columns is smaller; a larger one takes a second
# request.
_FIRST_GUESS = 1 << 16
_THREADS = 16


# Bytes of a value in Arrow, by the physical type of Parquet.
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8}
_REPEATS = frozenset({"PLAIN_DICTIONARY", "RLE_DICTIONARY", "DELTA_BYTE_ARRAY"})


@dataclass(frozen=True, slots=True)
class RowGroup:
    """`text_bytes` are those of the columns in the prompt, `all_bytes` those of all columns; both decoded.

    `coded_text_bytes` and `coded_bytes` are the shares of both that are not known from the footer: those of
    texts whose encoding stores what repeats once. They are counted as they are stored, uncompressed;
    `decoded_size.py` replaces them by the decoded bytes.
    """

    rows: int
    text_bytes: int
    all_bytes: int
    coded_text_bytes: int = 0
    coded_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Footer:
    """The footer of one input file.

    `schema` is that of its columns in the output (`planned_schema`). `coded_columns` are the paths of the columns in
    `RowGroup.coded_bytes`.
    """

    file: StoredFile
    schema: pa.Schema
    row_groups: tuple[RowGroup, ...]
    coded_columns: tuple[str, ...] = ()

    @property
    def row_bytes(self) -> int:
        """The decoded bytes of a row, in the row group with the widest rows."""
        return max((group.all_bytes // group.rows for group in self.row_groups if group.rows), default=0)

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


def is_within(path: str, columns: Collection[str]) -> bool:
    """Whether the path of a Parquet leaf is that of one of `columns`, or inside a list or struct of such a name."""
    return path in columns or path.partition(".")[0] in columns


def is_string(arrow_type: pa.DataType) -> bool:
    """Whether the Arrow type is text, also as JSON or dictionary-encoded."""
    if isinstance(arrow_type, pa.JsonType):
        return is_string(arrow_type.storage_type)
    values = arrow_type.value_type if pa.types.is_dictionary(arrow_type) else arrow_type
    return is_text(values)


def is_binary(arrow_type: pa.DataType) -> bool:
    """Whether the Arrow type is bytes that are not text."""
    return bool(
        pa.types.is_binary(arrow_type)
        or pa.types.is_large_binary(arrow_type)
        or pa.types.is_fixed_size_binary(arrow_type)
    )


def _read_footer(storage: Storage, file: StoredFile, text_columns: frozenset[str]) -> Footer:
    if is_read_as_text(storage, file):
        return _footer_of_text(storage, file, text_columns)
    tail = _fetch(storage, file)
    try:
        parquet = pq.ParquetFile(pa.BufferReader(tail), **READ_OPTIONS)
        metadata = parquet.metadata
        check_column_chunks(metadata, tail)
        coded: dict[str, None] = {}  # in the order of the schema
        groups = tuple(_row_group(metadata, index, text_columns, coded) for index in range(metadata.num_row_groups))
        # A damaged footer may still parse, with impossible values.
        if any(min(group.rows, group.text_bytes, group.all_bytes) < 0 for group in groups):
            raise ValueError("it has a negative number of rows or bytes")
        return Footer(file, planned_schema(parquet.schema_arrow, read_elements(tail)), groups, tuple(coded))
    except pa.ArrowNotImplementedError as error:
        raise InputError(f"{show_uri(file.uri)} has a column that pyarrow cannot read: {_first_line(error)}") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{show_uri(file.uri)} has a damaged Parquet footer: {_first_line(error)}") from error


def _footer_of_text(storage: Storage, file: StoredFile, text_columns: frozenset[str]) -> Footer:
    """What the footer would tell if the text file were a Parquet file of one row group."""
    table = read_table(storage, file)
    sizes = {name: table.column(name).nbytes for name in table.column_names}
    texts = sum(size for name, size in sizes.items() if name in text_columns)
    return Footer(file, table.schema, (RowGroup(table.num_rows, texts, sum(sizes.values())),))


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


def _row_group(metadata: pq.FileMetaData, index: int, text_columns: frozenset[str], coded: dict[str, None]) -> RowGroup:
    """Sum up the columns of a row group, and add the paths of those of unknown size to `coded`."""
    group = metadata.row_group(index)
    texts = total = coded_texts = coded_total = 0
    for number in range(group.num_columns):
        column = group.column(number)
        stored, path = column.total_uncompressed_size, column.path_in_schema
        if stored < 0:
            raise ValueError(f"column {path!r} has a negative number of bytes")
        size = max(stored, column.num_values * _width(metadata, number, column.physical_type))
        is_coded = column.physical_type == "BYTE_ARRAY" and not _REPEATS.isdisjoint(column.encodings)
        if is_coded:
            coded[path] = None
        total, coded_total = total + size, coded_total + size * is_coded
        if is_within(path, text_columns):
            texts, coded_texts = texts + size, coded_texts + size * is_coded
    return RowGroup(group.num_rows, texts, max(total, group.total_byte_size), coded_texts, coded_total)


def _width(metadata: pq.FileMetaData, column: int, physical_type: str) -> int:
    if physical_type == "FIXED_LEN_BYTE_ARRAY":
        return metadata.schema.column(column).length or 0
    return _WIDTHS.get(physical_type, 0)
