"""A column's values where its texts may not be UTF-8: Parquet promises that they are, and some writers do not keep it.

Used by `prompts/encode.py`, which makes such a text its row's error, and by `output/write.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class BrokenText:
    """Stands for a text that cannot be decoded; `reason` says where it breaks."""

    reason: str


def values_of(column: pa.ChunkedArray[Any]) -> list[Any]:
    """The values as Python has them, a `BrokenText` where the bytes are not UTF-8."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        return [None if raw is None else _decode(raw) for raw in column.cast(kind).cast(pa.large_binary()).to_pylist()]


def _decode(raw: bytes) -> str | BrokenText:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        return BrokenText(f"is not UTF-8 (byte 0x{raw[error.start]:02x} at {error.start})")
