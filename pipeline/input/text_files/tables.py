"""Reads a JSONL, JSON, CSV, TSV or TXT file as a table.

No type is guessed from texts. The values of JSON keep their types, and those of CSV are strings, except in the
columns that set a row's own sampling parameters. A TXT file gives one row for each line, in the column `text`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

import pyarrow as pa

from tirazh.errors import InputError
from tirazh.pipeline import schema
from tirazh.pipeline.input.listing.conversions import MAX_BYTES, text_format
from tirazh.pipeline.openai_batch.requests import is_batch, rows_of_batch
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage

TEXT = "text"
_HEAD = 64
_MAX_FIELD = 16 << 20


def read_table(storage: Storage, file: StoredFile) -> pa.Table:
    """Read a text file. Raises InputError, with the line, for content that is not of its format."""
    return _read(storage, file)


# The parts of one file are often read by one process, one after the other.
@lru_cache(maxsize=1)
def _read(storage: Storage, file: StoredFile) -> pa.Table:
    return parse_table(storage.read(file.uri), file.uri)


def parse_table(data: bytes, uri: str) -> pa.Table:
    """Parse the content of the text file `uri`. Raises InputError, with the line, as `read_table`."""
    name = show_uri(uri)
    text = _decode(_decompress(data, uri), name)
    kind = text_format(uri, text[:_HEAD].encode())
    if kind == "txt":
        return pa.table({TEXT: pa.array([line.rstrip("\r") for line in _lines(text)], pa.string())})
    if kind in ("csv", "tsv"):
        return _csv_table(text, "," if kind == "csv" else "\t", name)
    rows = _json_rows(text, name) if kind == "jsonl" else _json_list(text, name)
    if rows and is_batch(rows[0][1]):
        rows = rows_of_batch(rows, name)
    return _json_table(rows, name)


def _decompress(data: bytes, uri: str) -> bytes:
    endings: dict[str, Literal["gzip", "bz2", "zstd"]] = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
    codec = next((codec for ending, codec in endings.items() if uri.lower().endswith(ending)), None)
    if codec is None:
        return data
    try:
        content = pa.CompressedInputStream(pa.BufferReader(data), codec).read(MAX_BYTES + 1)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{show_uri(uri)} is damaged: it cannot be decompressed") from error
    if len(content) > MAX_BYTES:
        raise InputError(
            f"{show_uri(uri)} holds more than {MAX_BYTES >> 20} MiB of text; write it to a Parquet file and give that"
        )
    return bytes(content)


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{name} line {line} is not UTF-8 (byte 0x{data[error.start]:02x}); convert the file, e.g. with "
            "iconv -t UTF-8"
        ) from None


def _lines(text: str) -> list[str]:
    # Not splitlines(): U+2028 and others are part of a text.
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _json_rows(text: str, name: str) -> list[tuple[int, dict[str, Any]]]:
    rows = []
    for number, line in enumerate(_lines(text), start=1):
        if line.strip():
            rows.append((number, _json_object(line, f"{name} line {number}")))
    return rows


def _json_object(line: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is not JSON: {_first_line(error)}") from None
    if not isinstance(value, dict):
        raise InputError(f'{place} is not a JSON object, such as {{"text": "…"}}')
    return value


def _json_list(text: str, name: str) -> list[tuple[int, dict[str, Any]]]:
    try:
        values = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not JSON: {_first_line(error)}") from None
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise InputError(f"{name}: item {number} of the list is not a JSON object")
    return list(enumerate(values, start=1))


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")


def _json_table(rows: Sequence[tuple[int, dict[str, Any]]], name: str) -> pa.Table:
    names = dict.fromkeys(key for _, row in rows for key in row)
    return pa.table({key: _json_column(key, rows, name) for key in names})


def _json_column(key: str, rows: Sequence[tuple[int, dict[str, Any]]], name: str) -> pa.Array[Any]:
    values = [row.get(key) for _, row in rows]
    try:
        column: pa.Array[Any] = pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        number, reason = _first_misfit(key, rows)
        raise InputError(f"{name} line {number}: {key!r} {reason}") from None
    return pa.nulls(len(values), pa.string()) if pa.types.is_null(column.type) else column


def _first_misfit(key: str, rows: Sequence[tuple[int, dict[str, Any]]]) -> tuple[int, str]:
    """The first line whose value does not go into a column with those before it."""
    first, last = 0, len(rows)
    while last - first > 1:  # the values up to `first` fit together, those up to `last` do not
        middle = (first + last) // 2
        try:
            pa.array([row.get(key) for _, row in rows[:middle]])
            first = middle
        except (pa.ArrowException, OverflowError, UnicodeEncodeError):
            last = middle
    number, row = rows[last - 1]
    return number, f"is {_shortened(row.get(key))}, which is of another type than in the lines before, or too large"


def _csv_table(text: str, delimiter: str, name: str) -> pa.Table:
    csv.field_size_limit(_MAX_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = _csv_rows(reader, name)
    header = next(rows, None)
    if header is None:
        raise InputError(f"{name} is empty; its first line must name the columns")
    columns: list[list[str]] = [[] for _ in header[1]]
    for number, row in rows:
        if len(row) != len(columns):
            raise InputError(f"{name} line {number} has {len(row)} values, but the first line names {len(columns)}")
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    arrays = [_csv_column(column, values, name) for column, values in zip(header[1], columns, strict=True)]
    return pa.Table.from_arrays(arrays, names=list(header[1]))


def _csv_rows(reader: Any, name: str) -> Iterator[tuple[int, list[str]]]:
    """The line numbers and values of all lines that are not empty."""
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{name} line {reader.line_num} is not CSV: {_first_line(error)}") from None
        if row:
            yield reader.line_num, row


def _csv_column(name: str, values: list[str], file: str) -> pa.Array[Any]:
    """Texts, or the numbers of a column that sets a sampling parameter; an empty value of it is null."""
    if name not in schema.OVERRIDES:
        return pa.array(values, pa.string())
    read: Callable[[str], Any] = schema.OVERRIDES[name]
    try:
        numbers: pa.Array[Any] = pa.array([None if not value.strip() else read(value) for value in values])
        return numbers
    except (ValueError, OverflowError, pa.ArrowException):
        raise InputError(f"{file}: the column {name!r} sets a sampling parameter, so it must hold numbers") from None


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
