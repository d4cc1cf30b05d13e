"""Reads the values of a column for prompts, including those that Python cannot represent.

Such a value takes only its own row out: Parquet allows years after 9999, and some writers do not check UTF-8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

_FAILURES = (ValueError, OverflowError, TypeError, ArithmeticError, pa.ArrowException)
_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


@dataclass(frozen=True, slots=True)
class BrokenText:
    """Takes the place of a value that cannot be read.

    `reason` completes the sentence "the column …".
    """

    reason: str


def values_of(column: pa.ChunkedArray[Any]) -> list[Any]:
    """The values as Python objects, with a `BrokenText` for each value that Python cannot represent.

    Times in a time zone that Python does not know are returned in UTC.
    """
    if isinstance(column.type, pa.JsonType):
        storage: Any = column.type.storage_type
        chunks: list[Any] = column.chunks
        column = pa.chunked_array([chunk.storage for chunk in chunks], storage)
    column = _in_known_zone(column)
    try:
        return list(column.to_pylist())
    except _FAILURES:
        pass
    plain = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain):
        return [None if raw is None else _decode(raw) for raw in column.cast(plain).cast(pa.large_binary()).to_pylist()]
    return [_read(value) for value in column]


def _in_known_zone(column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    if zone is None:
        return column
    try:
        pa.scalar(0, column.type).as_py()
    except _FAILURES:
        return column.cast(pa.timestamp(column.type.unit, "UTC"))
    return column


def _decode(raw: bytes) -> str | BrokenText:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        return BrokenText(f"is not UTF-8 (byte 0x{raw[error.start]:02x} at {error.start})")


def _read(value: pa.Scalar[Any]) -> Any:
    try:
        return value.as_py()
    except _FAILURES as error:
        return BrokenText(_reason(value, error))


def _reason(value: pa.Scalar[Any], error: Exception) -> str:
    kind = value.type
    if pa.types.is_date32(kind) or pa.types.is_date64(kind):
        unit = "days" if pa.types.is_date32(kind) else "milliseconds"
        return f"is a date outside of the years 1 to 9999 ({_number(value)} {unit} since 1970)"
    if pa.types.is_timestamp(kind):
        return f"is a time outside of the years 1 to 9999 ({_number(value)} {_UNITS[kind.unit]} since 1970)"
    if pa.types.is_duration(kind):
        return f"is a duration of more than 999999999 days ({_number(value)} {_UNITS[kind.unit]})"
    text = next(iter(str(error).splitlines()), "")[:200]
    return f"is a value of type {kind} that cannot be read ({text or type(error).__name__})"


def _number(value: pa.Scalar[Any]) -> Any:
    return value.value  # type: ignore[attr-defined]
