"""Columns that are directories: `category=sport/day=2026-11-24/part-0.parquet`, as Hive and Spark write them.

The type of such a column comes from the values of all files: int64 if every value is a canonical integer,
date32 if every value is an ISO date, else string. So no value is changed: `07` stays text.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from tirazh.errors import InputError
from tirazh.pipeline.storage.errors import show_uri

# What Hive, Spark, pandas and DuckDB write for null.
_NULL = "__HIVE_DEFAULT_PARTITION__"
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)

Partition = tuple[tuple[str, str | None], ...]


def partition_of(uri: str, key: str) -> Partition:
    """The columns that the directories of the file at `uri` stand for: names and values, outermost first.

    `key` is the file's path below the directory that was named, or below the part of a pattern before its first
    wildcard. All directories in it count. If the named directory (or that of a named file) has the form
    `key=value`, it counts too, and so do those directly above it: the columns of a file are the same whether the
    user names it, its directory, a pattern, or the directory above. Raises InputError for a name that occurs
    twice.
    """
    above = uri.removesuffix(key).rstrip("/").split("/")
    found = [pair for name in key.split("/")[:-1] if (pair := _pair(name)) is not None]
    while above and (pair := _pair(above.pop())) is not None:
        found.insert(0, pair)
    names = [name for name, _ in found]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise InputError(
            f"{show_uri(uri)} is in two directories {repeated}=…, so column {repeated!r} would have two values; "
            "rename one of them"
        )
    return tuple(found)


def _pair(name: str) -> tuple[str, str | None] | None:
    column, equals, value = name.partition("=")
    if not (column and equals):
        return None
    return _decoded(column), None if value == _NULL else _decoded(value)


def _decoded(text: str) -> str:
    """`text` without URL encoding; unchanged if that would not be UTF-8."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return text


def partition_type(values: Iterable[str | None]) -> pa.DataType:
    """The Arrow type of a column with these values: int64, date32 or string (also without any value)."""
    known = {value for value in values if value is not None}
    if known and all(map(_is_integer, known)):
        return pa.int64()
    if known and all(map(_is_date, known)):
        return pa.date32()
    return pa.string()


def _is_integer(value: str) -> bool:
    return _INTEGER.fullmatch(value) is not None and -(1 << 63) <= int(value) < 1 << 63


def _is_date(value: str) -> bool:
    if _DATE.fullmatch(value) is None:
        return False
    try:
        datetime.date.fromisoformat(value)
    except ValueError:
        return False
    return True


def constant_column(value: str | None, rows: int, arrow_type: pa.DataType) -> pa.Array[Any]:
    """The value of a directory as a column of `rows` equal values. Raises pa.ArrowException if it has another type."""
    return pa.repeat(pa.scalar(value, pa.string()), rows).cast(arrow_type)


def partition_names(partitions: Sequence[Partition]) -> list[str]:
    """The names of the columns of all files, in the order in which they occur first."""
    return list(dict.fromkeys(name for partition in partitions for name, _ in partition))
