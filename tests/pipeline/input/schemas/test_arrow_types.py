"""Arrow types between reading and writing: values stay, whatever carries them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from tirazh.pipeline.input.schemas.arrow_types import comparable, planned_type, restore, storable, to_transport

NESTED = pa.struct(
    [
        pa.field("id", pa.uuid(), nullable=False, metadata={"PARQUET:field_id": "3"}),
        pa.field("views", pa.list_(pa.field("item", pa.string_view(), nullable=False), 2)),
        pa.field("pairs", pa.map_(pa.string_view(), pa.json_(pa.string_view()))),
    ]
)


def chunked(*arrays: pa.Array[Any]) -> pa.ChunkedArray[Any]:
    return pa.chunked_array(list(arrays))


def test_indices_of_dictionaries_are_widened_at_every_depth() -> None:
    small = pa.dictionary(pa.int8(), pa.string(), ordered=True)
    assert planned_type(small) == pa.dictionary(pa.int32(), pa.string(), ordered=True)
    assert planned_type(pa.list_(pa.struct([("a", small)]))).value_type.field("a").type.index_type == pa.int32()
    assert planned_type(pa.dictionary(pa.uint16(), pa.string())).index_type == pa.uint32()
    assert planned_type(pa.dictionary(pa.int64(), pa.string())).index_type == pa.int64()


def test_what_the_transport_changes_is_restored_exactly() -> None:
    plain = pa.struct(
        [
            ("id", pa.binary(16)),
            ("views", pa.list_(pa.large_string(), 2)),
            ("pairs", pa.map_(pa.large_string(), pa.large_string())),
        ]
    )
    rows = [{"id": b"a" * 16, "views": ["x", "y"], "pairs": [("k", "{}")]}, None]
    columns = pa.schema([pa.field("c", NESTED, metadata={"a": "b"})], {"owner": "us"})
    table = restore(pa.table({"c": pa.array(rows, plain)}), columns)
    sent = to_transport(table)
    assert not any("_view" in str(field.type) for field in sent.schema)
    back = restore(sent, columns)
    back.validate(full=True)
    assert back.schema.equals(columns, check_metadata=True)
    assert back.equals(table)


def test_a_column_of_another_type_is_cast_and_never_reinterpreted() -> None:
    table = pa.table({"c": pa.array([1, 2], pa.int32())})
    assert restore(table, pa.schema({"c": pa.int64()}))["c"].to_pylist() == [1, 2]
    with pytest.raises(pa.ArrowException):
        restore(pa.table({"c": ["x"]}), pa.schema({"c": pa.int8()}))


def test_values_are_compared_and_not_their_encoding() -> None:
    text = chunked(pa.array(["a", None, "b"]))
    encoded = chunked(pa.array(["a", None]).dictionary_encode(), pa.array(["b"]).dictionary_encode())
    assert comparable(text).cast(pa.large_string()).equals(comparable(encoded).cast(pa.large_string()))
    nan = chunked(pa.array([[float("nan")], [-0.0]]))
    assert comparable(nan).equals(comparable(nan))
    assert not comparable(nan).equals(comparable(chunked(pa.array([[float("nan")], [0.0]]))))


def test_dictionaries_of_views_can_be_stored() -> None:
    values = pa.array(["a", "b"], pa.string_view())
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.uint8()), values)
    table = storable(pa.table({"c": column}))
    assert table["c"].to_pylist() == ["a", "b", None]
    assert table.schema.field("c").type.value_type == pa.large_string()
