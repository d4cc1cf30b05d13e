"""The typed columns of a JSON Schema."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.model.constraints.test_grammar import schemas
from tirazh.pipeline.constraints.fields import FieldType, fill_fields, schema_fields

TEXT = pa.string()


def types(properties: dict[str, Any], **more: Any) -> dict[str, pa.DataType]:
    return {field.name: field.type.arrow for field in schema_fields({"properties": properties, **more})}


@pytest.mark.parametrize(
    ("schema", "arrow"),
    [
        ({"type": "string", "maxLength": 5}, TEXT),
        ({"maxLength": 5}, TEXT),
        ({"type": "integer"}, pa.int64()),
        ({"type": "number"}, pa.float64()),
        ({"type": ["integer", "number"]}, pa.float64()),
        ({"type": "boolean"}, pa.bool_()),
        ({"enum": ["спорт", "наука"]}, TEXT),
        ({"enum": ["спорт", None]}, TEXT),
        ({"enum": [1, 2]}, pa.int64()),
        ({"enum": [1, 2.5]}, pa.float64()),
        ({"const": True}, pa.bool_()),
        ({"type": ["string", "null"]}, TEXT),
        ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, pa.int64()),
        ({"oneOf": [{"enum": ["a"]}, {"type": "string"}]}, TEXT),
        ({"type": "array", "items": {"type": "integer"}}, pa.list_(pa.int64())),
        ({"items": {"enum": ["a"]}}, pa.list_(TEXT)),
        ({"properties": {"a": {"type": "integer"}}}, pa.struct({"a": pa.int64()})),
        ({"$ref": "#/$defs/n"}, pa.int64()),
    ],
)
def test_a_property_has_the_arrow_type_of_its_schema(schema: dict[str, Any], arrow: pa.DataType) -> None:
    assert types({"x": schema}, **{"$defs": {"n": {"type": "integer"}}}) == {"x": arrow}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": ["string", "integer"]},
        {"enum": ["a", 1]},
        {"enum": [None]},
        {"type": "array"},
        {"type": "array", "prefixItems": [{"type": "integer"}]},
        {"type": "object"},
        {"properties": {"a": {}}, "additionalProperties": {"type": "string"}},
        {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        {"$ref": "#/$defs/missing"},
        {"type": "null"},
    ],
)
def test_what_no_single_type_holds_is_json_text(schema: dict[str, Any]) -> None:
    (field,) = schema_fields({"properties": {"x": schema}})
    assert field.type == FieldType("json")


def test_a_recursive_schema_ends_in_json_text() -> None:
    node = {"properties": {"n": {"type": "integer"}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}}}
    found = types({"first": {"$ref": "#/$defs/node"}}, **{"$defs": {"node": node}})
    assert found == {"first": pa.struct({"n": pa.int64(), "next": TEXT})}


@pytest.mark.parametrize("schema", [{"type": "array", "items": {}}, {"type": "string"}, {}, {"type": "object"}])
def test_a_schema_without_an_object_has_no_fields(schema: dict[str, Any]) -> None:
    assert schema_fields(schema) == ()


def columns_of(schema: dict[str, Any], *texts: str | None) -> tuple[list[str | None], list[list[Any]]]:
    errors, columns = fill_fields(texts, [None] * len(texts), schema_fields(schema))
    return errors, [column.to_pylist() for column in columns]


def test_values_become_columns_in_the_order_of_the_schema() -> None:
    schema = {"properties": {"b": {"type": "string"}, "a": {"type": "integer"}, "c": {}}}
    errors, columns = columns_of(schema, '{"b": "он \\"да\\"", "a": 3, "c": [1, "x"]}', '{"b": "", "a": -1, "c": null}')
    assert errors == [None, None]
    assert columns == [['он "да"', ""], [3, -1], ['[1, "x"]', None]]


def test_a_property_that_a_completion_lacks_is_null() -> None:
    schema = {"properties": {"a": {"type": "integer"}, "b": {"type": "array", "items": {}}}, "required": []}
    assert columns_of(schema, '{"a": 1}', "{}") == ([None, None], [[1, None], [None, None]])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Expecting value"),
        ('{"n": 1', "Expecting"),
        ("[1]", "'[1]' is no dict"),
        ('{"n": "1"}', "'1' is no integer"),
        ('{"n": true}', "'True' is no integer"),
        ('{"n": 99999999999999999999}', "99999999999999999999 does not fit in an int64"),
        ('{"x": 1e999}', "inf does not fit in a double"),
        ('{"s": "\\ud800"}', "surrogates not allowed"),
        ('{"n": ' + "9" * 5_000 + "}", "Exceeds the limit"),
        ('{"s": ' + "[" * 100_000, ""),
    ],
)
def test_a_completion_that_does_not_fit_is_an_error_of_its_row(text: str, says: str) -> None:
    schema = {"properties": {"n": {"type": "integer"}, "x": {"type": "number"}, "s": {"type": "string"}}}
    errors, columns = columns_of(schema | {"required": []}, text, '{"n": 2}')
    assert errors[0] is not None
    assert errors[0].startswith("invalid: the completion does not follow the schema (")
    assert says in errors[0]
    assert errors[1] is None
    assert columns == [[None, 2], [None, None], [None, None]]


def test_a_row_with_an_error_keeps_it_and_has_no_fields() -> None:
    fields = schema_fields({"properties": {"a": {"type": "integer"}}})
    errors, (column,) = fill_fields(['{"a": 1', None], ["unfinished: …", "the prompt is empty"], fields)
    assert errors == ["unfinished: …", "the prompt is empty"]
    assert column.to_pylist() == [None, None]


@given(properties=st.dictionaries(st.sampled_from(["a", "б", "c d"]), schemas(), min_size=1))
def test_every_schema_has_fields_that_pickle_and_name_its_properties(properties: dict[str, Any]) -> None:
    fields = schema_fields({"properties": properties})
    assert [field.name for field in fields] == list(properties)
    assert pa.schema([(field.name, field.type.arrow) for field in fields]).names == list(properties)
    assert json.dumps(properties) == json.dumps(properties)
