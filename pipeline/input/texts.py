"""Reads text columns that may contain invalid UTF-8: Parquet forbids it, but some writers do not check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class BrokenText:
    """Takes the place of a text that cannot be decoded.

    `reason` completes the sentence "the column …".
    """

    reason: str


def values_of(column: pa.ChunkedArray[Any]) -> list[Any]:
    """The values as Python objects, with a `BrokenText` for each value that is not UTF-8."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        plain = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        return [None if raw is None else _decode(raw) for raw in column.cast(plain).cast(pa.large_binary()).to_pylist()]


def _decode(raw: bytes) -> str | BrokenText:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        return BrokenText(f"is not UTF-8 (byte 0x{raw[error.start]:02x} at {error.start})")
