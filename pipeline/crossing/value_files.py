"""Reads the values of a name from a file: .txt, .csv, .jsonl or .parquet, on a disk or in an object store.

Texts of .txt and .csv files are texts, also where they look like numbers; .jsonl and .parquet files have types.
The size of what is read is bounded, since the file may come from anyone.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError, did_you_mean
from tirazh.pipeline.crossing.declaration import FileColumn
from tirazh.pipeline.crossing.value_list import MAX_TEXT_BYTES, MAX_VALUES
from tirazh.pipeline.storage.filesystem import Storage, full_uri

# Rows of a Parquet file that are decoded at once: few, because a dictionary may repeat a long text.
_BATCH_ROWS = 512


@dataclass(frozen=True, slots=True)
class FileValues:
    """The values of a column, the line or row from 1 of each, and the weights beside them, if they were asked for."""

    values: list[Any]
    lines: list[int]
    weights: list[Any] | None = None
    unit: str = "line"

    def place(self, index: int) -> str:
        """Where the value number `index` is in the file."""
        return f"{self.unit} {self.lines[index]}"


def read_values(file: FileColumn, storage: Storage, *, weights: str | None = None) -> FileValues:
    """Read the values of `file`, and of its column `weights`. Raises InputError, naming the file and the line."""
    try:
        if file.format == "parquet":
            return _read_parquet(file, storage, weights)
        text = _read_text(file, storage)
        if file.format == "txt":
            return _from_lines(text)
        return _from_csv(text, file, weights) if file.format == "csv" else _from_jsonl(text, file, weights)
    except _FileProblem as problem:
        raise InputError(f"{file}: {problem}") from None


class _FileProblem(Exception):
    """The end of the sentence about a file."""


def _read_text(file: FileColumn, storage: Storage) -> str:
    uri = full_uri(file.uri)
    found = storage.walk(uri)
    if [each.uri for each in found] != [uri]:
        raise _FileProblem("it is a directory; name a file")
    if found[0].size > MAX_TEXT_BYTES:
        raise _FileProblem(f"it is larger than {MAX_TEXT_BYTES >> 20} MiB; put long lists into --input")
    data = storage.read_head(found[0], MAX_TEXT_BYTES)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _FileProblem(f"line {line} is not UTF-8 text; write the file again as UTF-8") from None


def _from_lines(text: str) -> FileValues:
    """One value a line, without the white space around it; blank lines are skipped."""
    lines = [(number, line.strip()) for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1)]
    filled = [(number, line) for number, line in lines if line]
    return FileValues([line for _, line in filled], [number for number, _ in filled])


def _from_csv(text: str, file: FileColumn, weights: str | None) -> FileValues:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        chosen = _choose(file.column, header, default=0)
        weighed = _choose(weights, header, default=0) if weights is not None else None
        values: list[str] = []
        lines: list[int] = []
        numbers: list[Any] = []
        for row in reader:
            if not any(field.strip() for field in row):
                continue
            if len(row) != len(header):
                raise _FileProblem(f"line {reader.line_num} has {len(row)} fields, and the header {len(header)}")
            if not row[chosen].strip():
                raise _FileProblem(f"line {reader.line_num} has no value in the column {header[chosen]!r}")
            values.append(row[chosen])
            lines.append(reader.line_num)
            numbers.append(None if weighed is None else _number(row[weighed]))
    except csv.Error as error:
        raise _FileProblem(f"line {reader.line_num} is not CSV: {error}") from None
    return FileValues(values, lines, numbers if weighed is not None else None)


def _from_jsonl(text: str, file: FileColumn, weights: str | None) -> FileValues:
    values: list[Any] = []
    lines: list[int] = []
    numbers: list[Any] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _FileProblem(f"line {number} is not JSON ({type(error).__name__}: {str(error)[:80]})") from None
        if not isinstance(row, dict):
            raise _FileProblem(f'line {number} is not an object such as {{"topic": "sport"}}')
        keys = list(row)
        try:
            values.append(row[keys[_choose(file.column, keys, default=None)]])
            numbers.append(None if weights is None else row[keys[_choose(weights, keys, default=None)]])
        except _FileProblem as problem:
            raise _FileProblem(f"line {number}: {problem}") from None
        lines.append(number)
    return FileValues(values, lines, numbers if weights is not None else None)


def _read_parquet(file: FileColumn, storage: Storage, weights: str | None) -> FileValues:
    with storage.open(full_uri(file.uri)) as opened:
        try:
            parquet = pq.ParquetFile(opened)
            names = parquet.schema_arrow.names
            columns = [names[_choose(file.column, names, default=None)]]
            if weights is not None:
                columns.append(names[_choose(weights, names, default=None)])
            read: list[list[Any]] = [[] for _ in columns]
            size = 0
            for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=list(dict.fromkeys(columns))):
                size += batch.nbytes
                if size > MAX_TEXT_BYTES or len(read[0]) > MAX_VALUES:
                    raise _FileProblem(
                        f"the column {columns[0]!r} has more than {MAX_VALUES:,} values or {MAX_TEXT_BYTES >> 20} MiB; "
                        "give the file as --input"
                    )
                for index, name in enumerate(columns):
                    read[index] += _plain(batch.column(name), name)
        except (pa.ArrowException, OSError) as error:
            first = next(iter(str(error).splitlines()), "")[:120]
            raise _FileProblem(f"it cannot be read as Parquet: {first}") from None
    rows = list(range(1, len(read[0]) + 1))
    return FileValues(read[0], rows, read[1] if weights is not None else None, unit="row")


def _plain(column: pa.Array[Any], name: str) -> list[Any]:
    """Texts and numbers of a batch as Python values."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    types = pa.types
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return list(column.cast(pa.string()).to_pylist())
    if types.is_integer(kind) or types.is_float32(kind) or types.is_float64(kind):
        return list(column.to_pylist())
    raise _FileProblem(f"the column {name!r} holds {column.type}, not texts or numbers")


def _choose(name: str | None, names: Sequence[str], *, default: int | None) -> int:
    """The place of the column `name`; without a name the place `default`, or that of the only column."""
    if name is not None:
        if name in names:
            return list(names).index(name)
        hint = did_you_mean(name, names) or f"; it has {', '.join(map(repr, names[:10])) or 'none'}"
        raise _FileProblem(f"there is no column {name!r}{hint}")
    if not names:
        raise _FileProblem("it has no columns")
    if default is not None:
        return default
    if len(names) > 1:
        shown = ", ".join(map(repr, names[:10]))
        raise _FileProblem(f"it has the columns {shown}; name one behind the file, as #{names[0]}")
    return 0


def _number(text: str) -> Any:
    """A weight of a CSV file; a text that is no number is refused with the other weights."""
    try:
        return float(text)
    except ValueError:
        return text
