"""What a constraint asks and the library cannot do is refused when the job is planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fuzz.random_tokenizers import write_tokenizer
from tirazh.errors import InputError, RequestError
from tirazh.model.tokenizer import load_tokenizer
from tirazh.pipeline.constraints.check import check_constraint
from tirazh.pipeline.plan import Plan, plan_job
from tirazh.pipeline.spec import GenerateSpec

FIELDS = {"properties": {"title": {"type": "string"}, "n": {"type": "integer"}}}


def plan(folder: Path, columns: dict[str, Any] | None = None, **values: Any) -> Plan:
    pq.write_table(pa.table({"prompt": ["Новость"], **(columns or {})}), folder / "in.parquet")
    spec = GenerateSpec(input=(str(folder / "in.parquet"),), output=str(folder / "out"), model="embedded", **values)
    return plan_job(spec)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"schema": {"uniqueItems": True}}, '--schema: Unimplemented keys: ["uniqueItems"]'),
        ({"schema": {"not": {}}}, '--schema: Unimplemented keys: ["not"]'),
        ({"schema": {"type": "strin"}}, "--schema: Invalid type: strin"),
        (
            {"schema": {"type": "string", "minLength": 5, "maxLength": 2}},
            "--schema: Unsatisfiable schema: minLength (5) is greater than maxLength (2)",
        ),
        ({"regex": "(a"}, "--regex: regex parse error: (a error: unclosed group"),
        ({"regex": r"[^\s\S]"}, "--regex: no text follows it (no text can follow it)"),
        ({"regex": "а" * 20_000}, "--regex: it has 20000 characters, and 16384 are allowed"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_its_setting(values: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        plan(tmp_path, **values)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(says)


def test_ordinary_constraints_are_planned(tmp_path: Path) -> None:
    for values in ({"schema": FIELDS}, {"regex": " [а-я]+"}, {"choices": (" да", " нет")}):
        assert plan(tmp_path, **values).rows == 1


def test_the_order_of_properties_belongs_to_the_job(tmp_path: Path) -> None:
    """It is the order of the completions."""
    other = {"properties": dict(reversed(FIELDS["properties"].items()))}
    same = [plan(tmp_path, schema=schema).fingerprint for schema in (FIELDS, dict(FIELDS), other)]
    assert same[0] == same[1] != same[2]


def test_a_property_with_the_name_of_an_input_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        plan(tmp_path, {"title": ["x"]}, schema=FIELDS)
    assert str(caught.value) == (
        "the input already has a column 'title'; rename the added columns with --prefix tirazh_"
    )
    assert plan(tmp_path, {"title": ["x"]}, schema=FIELDS, prefix="tirazh_").rows == 1


@pytest.mark.parametrize("name", ["completion", "Error"])
def test_a_property_with_the_name_of_an_added_column_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=f"--schema: the property '{name}' has the name of another added column"):
        plan(tmp_path, schema={"properties": {name: {"type": "string"}}})


def test_the_column_of_schemas_must_exist_and_hold_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--schema-column"):
        plan(tmp_path, schema_column="s")
    with pytest.raises(InputError, match="--schema-column"):
        plan(tmp_path, {"s": [1]}, schema_column="s")


def test_a_tokenizer_whose_tokens_are_no_bytes_is_refused(tmp_path: Path) -> None:
    names = set()
    for seed in range(12):
        write_tokenizer(seed, tmp_path / str(seed))
        tokenizer = load_tokenizer(str(tmp_path / str(seed)))
        spec = GenerateSpec(input=("x",), output="y", model="embedded", choices=("a", "b"))
        names.add(type(tokenizer.rust.model).__name__)
        if type(tokenizer.rust.model).__name__ == "BPE":
            check_constraint(spec, tokenizer)
            continue
        with pytest.raises(RequestError, match="this model's tokenizer cannot be used for constrained decoding"):
            check_constraint(spec, tokenizer)
    assert len(names) > 2
