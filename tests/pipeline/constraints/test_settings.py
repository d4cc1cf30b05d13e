"""The settings of constrained decoding: one constraint a job, and none beside settings that would break it."""

from __future__ import annotations

from typing import Any

import pytest

from tirazh.errors import RequestError
from tirazh.model.requests import Constraint
from tirazh.pipeline.constraints.settings import job_constraint
from tirazh.pipeline.spec import GenerateSpec

OBJECT = {"properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}


def spec(**values: Any) -> GenerateSpec:
    return GenerateSpec(input=("in.parquet",), output="out", model="embedded", **values)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"schema": OBJECT, "regex": "a"}, "--schema and --regex cannot be combined: a completion follows one of them"),
        ({"schema_column": "s", "choices": ("a",)}, "--schema-column and --choices cannot be combined"),
        ({"schema": "person"}, "--schema must be a JSON Schema, which is a mapping, not 'person'"),
        ({"schema": ["a"]}, "--schema must be a JSON Schema, which is a mapping"),
        ({"regex": ""}, "--regex is an empty text"),
        ({"choices": ("a", "")}, "--choices holds an empty text; remove it"),
        ({"choices": ("a", "b", "a")}, "--choices holds 'a' twice; remove one of them"),
        ({"regex": "a", "stop": ("b",)}, "--stop cannot be combined with --regex"),
        ({"schema": OBJECT, "no_repeat_ngram_size": 3}, "--no-repeat-ngram-size cannot be combined with --schema"),
        ({"choices": ("a",), "min_new_tokens": 3}, "--min-new-tokens cannot be combined with --choices"),
        ({"schema": OBJECT, "samples": 2, "samples_as": "lists"}, "--schema needs one row per sample"),
    ],
)
def test_what_cannot_hold_together_is_refused_in_one_sentence(values: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError) as caught:
        spec(**values)
    assert str(caught.value).startswith(says)


def test_a_schema_that_is_nested_too_deeply_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(200):
        schema = {"items": schema}
    with pytest.raises(RequestError, match="--schema: it is nested deeper than 64 levels"):
        spec(schema=schema)


def test_the_constraint_of_a_job_keeps_the_order_of_properties() -> None:
    assert job_constraint(spec(schema=OBJECT)) == Constraint(
        "schema", '{"properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}'
    )
    assert job_constraint(spec(regex="[а-я]+")) == Constraint("regex", "[а-я]+")
    assert job_constraint(spec(choices=("да", "нет"))) == Constraint("choices", '["да", "нет"]')
    assert job_constraint(spec(schema_column="s")) is None
    assert job_constraint(spec()) is None
