"""Values for prompts: one that Python cannot represent is an error of its row."""

from __future__ import annotations

from datetime import date
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest

from tirazh.pipeline.column_values import BrokenText, values_of

FAR = 2**62
OUT_OF_RANGE: dict[str, tuple[pa.DataType, str]] = {
    "date": (pa.date32(), "is a date outside of the years 1 to 9999 (2147483647 days since 1970)"),
    "time in milliseconds": (
        pa.timestamp("ms"),
        f"is a time outside of the years 1 to 9999 ({FAR} milliseconds since 1970)",
    ),
    "time in a zone": (
        pa.timestamp("us", "Europe/Moscow"),
        f"is a time outside of the years 1 to 9999 ({FAR} microseconds since 1970)",
    ),
    "time in an unknown zone": (
        pa.timestamp("us", "MSK"),
        f"is a time outside of the years 1 to 9999 ({FAR} microseconds since 1970)",
    ),
    "duration": (pa.duration("s"), f"is a duration of more than 999999999 days ({FAR} seconds)"),
}


def read(values: list[Any], arrow_type: pa.DataType) -> list[Any]:
    array: pa.Array[Any] = pa.array(values, arrow_type)
    return values_of(pa.chunked_array([array]))


@pytest.mark.parametrize("kind", OUT_OF_RANGE)
def test_a_value_that_python_cannot_represent_takes_only_its_row_out(kind: str) -> None:
    arrow_type, reason = OUT_OF_RANGE[kind]
    far = 2**31 - 1 if arrow_type == pa.date32() else FAR
    first, second, third = read([0, far, None], arrow_type)
    assert not isinstance(first, BrokenText)
    assert second == BrokenText(reason)
    assert third is None


def test_times_in_a_zone_that_python_does_not_know_are_in_utc() -> None:
    assert [str(value) for value in read([0], pa.timestamp("us", "MSK"))] == ["1970-01-01 00:00:00+00:00"]
    assert [str(value) for value in read([0], pa.timestamp("us", "Europe/Moscow"))] == ["1970-01-01 03:00:00+03:00"]


def test_a_category_of_dates_is_read_value_by_value() -> None:
    column = pa.array([0, 2**31 - 1], pa.date32()).dictionary_encode()
    good, bad = values_of(pa.chunked_array([column]))
    assert good == date(1970, 1, 1)
    assert isinstance(bad, BrokenText)


def test_identifiers_and_json_are_texts() -> None:
    identifier = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"\0" * 16], pa.binary(16)))
    assert values_of(pa.chunked_array([identifier])) == [UUID(int=0)]
    raw = pa.array([b"{}", b"\xff"], pa.binary())
    text = pa.StringArray.from_buffers(2, *raw.buffers()[1:])
    json = pa.ExtensionArray.from_storage(pa.json_(), text)
    assert values_of(pa.chunked_array([json])) == ["{}", BrokenText("is not UTF-8 (byte 0xff at 0)")]
