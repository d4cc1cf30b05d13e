"""The common type of several types: it keeps every value, and does not depend on their order."""

from __future__ import annotations

import itertools
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.pipeline.input.schemas.common_type import common_field, common_type

STRUCT = pa.struct([pa.field("a", pa.int32()), pa.field("b", pa.string(), nullable=False)])
SMALL: list[pa.DataType] = [pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int16(), pa.string())]
Types = list[pa.DataType]

WIDENED: list[tuple[Types, pa.DataType]] = [
    ([pa.null(), pa.string()], pa.string()),
    ([pa.null(), pa.null()], pa.null()),
    ([pa.int8(), pa.int32(), pa.int64()], pa.int64()),
    ([pa.uint8(), pa.uint32()], pa.uint32()),
    ([pa.uint8(), pa.int8()], pa.int16()),
    ([pa.uint32(), pa.int8()], pa.int64()),
    ([pa.float16(), pa.float32(), pa.float64()], pa.float64()),
    ([pa.int16(), pa.float32()], pa.float32()),
    ([pa.int32(), pa.float32()], pa.float64()),
    ([pa.int64(), pa.float64()], pa.float64()),
    ([pa.string(), pa.large_string()], pa.large_string()),
    ([pa.string_view(), pa.string()], pa.large_string()),
    ([pa.dictionary(pa.int8(), pa.string()), pa.string()], pa.string()),
    (SMALL, pa.dictionary(pa.int32(), pa.string())),
    ([pa.dictionary(pa.int8(), pa.null()), pa.string()], pa.string()),
    ([pa.binary(), pa.binary(16)], pa.large_binary()),
    ([pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("ns")], pa.timestamp("ns")),
    ([pa.timestamp("us", "UTC"), pa.timestamp("ns", "+00:00")], pa.timestamp("ns", "UTC")),
    ([pa.time32("ms"), pa.time64("us")], pa.time64("us")),
    ([pa.duration("s"), pa.duration("ns")], pa.duration("ns")),
    ([pa.decimal128(10, 2), pa.decimal128(6, 4)], pa.decimal128(12, 4)),
    ([pa.decimal128(38, 0), pa.decimal128(5, 5)], pa.decimal256(43, 5)),
    ([pa.decimal128(5, 2), pa.int64()], pa.decimal128(21, 2)),
    ([pa.list_(pa.int32()), pa.list_(pa.int64())], pa.list_(pa.int64())),
    ([pa.list_(pa.null()), pa.large_list(STRUCT)], pa.large_list(STRUCT)),
    ([pa.list_(pa.int32(), 2), pa.list_(pa.int32(), 3)], pa.list_(pa.int32())),
    ([pa.map_(pa.string(), pa.int8()), pa.map_(pa.string(), pa.int64())], pa.map_(pa.string(), pa.int64())),
    (
        [STRUCT, pa.struct([pa.field("c", pa.date32()), pa.field("a", pa.int64())])],
        pa.struct([pa.field("a", pa.int64()), pa.field("b", pa.string()), pa.field("c", pa.date32())]),
    ),
    ([pa.uuid(), pa.uuid()], pa.uuid()),
    ([pa.uuid(), pa.binary(16)], pa.binary(16)),
    ([pa.json_(), pa.null()], pa.json_()),
]  # fmt: skip


@pytest.mark.parametrize(("types", "expected"), WIDENED, ids=[" + ".join(map(str, types)) for types, _ in WIDENED])
def test_types_widen_to_the_one_that_keeps_all_values(types: Types, expected: pa.DataType) -> None:
    assert common_type(types) == expected


CONFLICTS = [
    (pa.string(), pa.int64()),
    (pa.string(), pa.binary()),
    (pa.bool_(), pa.int8()),
    (pa.uint64(), pa.int64()),
    (pa.date32(), pa.timestamp("us")),
    (pa.timestamp("us"), pa.timestamp("us", "UTC")),
    (pa.timestamp("us", "Europe/Moscow"), pa.timestamp("us", "UTC")),
    (pa.decimal128(10, 2), pa.float64()),
    (pa.decimal256(76, 0), pa.decimal128(2, 2)),
    (pa.list_(pa.string()), pa.list_(pa.int8())),
    (pa.list_(pa.string()), pa.string()),
    (pa.struct([("a", pa.string())]), pa.struct([("a", pa.int8())])),
    (pa.uuid(), pa.json_()),
]


@pytest.mark.parametrize(("one", "other"), CONFLICTS, ids=lambda each: str(each))
def test_types_whose_values_have_no_common_meaning_conflict(one: pa.DataType, other: pa.DataType) -> None:
    assert common_type([one, other]) is None
    assert common_type([other, one]) is None


def test_a_field_is_nullable_if_one_is_and_keeps_the_first_metadata() -> None:
    strict = pa.field("id", pa.int32(), nullable=False, metadata={"field": "7"})
    assert common_field([strict, strict]) == strict
    joined = common_field([strict, pa.field("id", pa.int64(), metadata={"field": "9"})])
    assert joined is not None
    assert (joined.type, joined.nullable, joined.metadata) == (pa.int64(), True, {b"field": b"7"})
    missing = common_field([strict], may_be_missing=True)
    assert missing is not None
    assert missing.nullable


SIMPLE = [
    *(pa.null(), pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32()),
    *(pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.string(), pa.large_string(), pa.string_view()),
    *(pa.binary(), pa.large_binary(), pa.binary(3), pa.date32(), pa.date64(), pa.time32("s"), pa.time64("ns")),
    *(pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("us", "UTC"), pa.timestamp("ms", "Z"), pa.duration("ms")),
    *(pa.decimal128(5, 2), pa.decimal128(38, 10), pa.decimal256(60, 3), pa.dictionary(pa.int8(), pa.string())),
    *(pa.dictionary(pa.int16(), pa.int64()), pa.uuid(), pa.json_()),
]


def field(name: str, arrow_type: pa.DataType, may_be_null: bool) -> pa.Field[Any]:
    return pa.field(name, arrow_type, nullable=may_be_null or pa.types.is_null(arrow_type))


def nested(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    fields = st.dictionaries(st.sampled_from("abc"), st.tuples(inner, st.booleans()), min_size=1, max_size=3)
    return st.one_of(
        inner.map(pa.list_),
        inner.map(pa.large_list),
        fields.map(lambda named: pa.struct([field(name, *each) for name, each in named.items()])),
    )


types = st.recursive(st.sampled_from(SIMPLE), nested, max_leaves=4)


def in_one_order(arrow_type: Any) -> str:
    """The type as text, with the fields of structs sorted."""
    if arrow_type is None:
        return "conflict"
    if pa.types.is_struct(arrow_type):
        fields = (f"{field.name} {field.nullable} {in_one_order(field.type)}" for field in arrow_type.fields)
        return f"struct<{', '.join(sorted(fields))}>"
    if pa.types.is_list(arrow_type) or pa.types.is_large_list(arrow_type):
        kind = "list" if pa.types.is_list(arrow_type) else "large_list"
        return f"{kind}<{in_one_order(arrow_type.value_type)}>"
    return str(arrow_type)


@given(st.lists(types, min_size=2, max_size=3))
def test_the_common_type_does_not_depend_on_the_order(found: list[pa.DataType]) -> None:
    results = {in_one_order(common_type(order)) for order in itertools.permutations(found)}
    assert len(results) == 1


@given(st.lists(types, min_size=1, max_size=3))
def test_joining_a_type_again_changes_nothing(found: list[pa.DataType]) -> None:
    joined = common_type(found)
    if joined is not None:
        assert common_type([joined]) == joined
        assert common_type([joined, *found]) == joined
