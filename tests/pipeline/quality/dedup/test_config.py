"""The values of `dedup:`, and the columns that they compare."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest

from tirazh.errors import RequestError
from tirazh.pipeline.quality.dedup.config import DedupConfig, check_dedup, dedup_config
from tirazh.pipeline.spec import GenerateSpec

COLUMNS = pa.schema(
    {
        "title": pa.string(),
        "topic": pa.dictionary(pa.int32(), pa.string()),
        "year": pa.int32(),
        "score": pa.float64(),
        "completion": pa.string(),
        "error": pa.string(),
    }
)


@dataclass
class Settings:
    dedup: Any
    prefix: str = ""


@pytest.mark.parametrize(
    ("value", "columns", "near"),
    [
        ("exact", ("completion",), None),
        ("near", ("completion",), 0.8),
        ({"near": 0.9}, ("completion",), 0.9),
        ({"near": True}, ("completion",), 0.8),
        ({"near": 1}, ("completion",), 1.0),
        ({"exact": True, "columns": "title"}, ("title",), None),
        ({"near": 0.75, "columns": ["title", "topic", "year"]}, ("title", "topic", "year"), 0.75),
    ],
)
def test_a_value_says_what_is_compared_and_how(value: Any, columns: tuple[str, ...], near: float | None) -> None:
    config = dedup_config(Settings(value), COLUMNS)
    assert config == DedupConfig(columns=columns, near=near)
    assert pickle.loads(pickle.dumps(config)) == config


def test_without_the_key_nothing_is_compared() -> None:
    assert dedup_config(Settings(None), COLUMNS) is None


def test_the_completion_has_the_prefix_of_the_job() -> None:
    config = dedup_config(Settings("near", prefix="x_"), pa.schema({"x_completion": pa.string()}))
    assert config is not None
    assert config.columns == ("x_completion",)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nearly", "--dedup must be exact, near, or a mapping such as {near: 0.8}, not 'nearly'; did you mean near?"),
        (True, "not True"),
        ([], r"not \[\]"),
        ({"nera": 0.8}, "--dedup has no key 'nera'; its keys are exact, near, columns; did you mean near?"),
        ({1: 0.8}, "--dedup has no key 1"),
        ({"near": 0.5}, "--dedup: near must be a similarity from 0.7 to 1, or true, not 0.5"),
        ({"near": 80}, "near must be a similarity"),
        ({"near": float("nan")}, "near must be a similarity"),
        ({"near": "0.8"}, "not '0.8'"),
        ({"exact": "yes"}, "exact must be true or false, not 'yes'"),
        ({"columns": ["title"]}, "--dedup asks for neither exact nor near"),
        ({"exact": True, "near": 0.8}, "--dedup asks for both exact and near"),
        ({"near": True, "columns": []}, r"columns must be names of output columns, not \[\]"),
        ({"near": True, "columns": [1]}, r"not \[1\]"),
        ({"near": True, "columns": ["title", "title"]}, "columns names a column twice"),
    ],
)
def test_another_value_is_refused_in_one_sentence(value: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check_dedup(value)


def test_a_spec_refuses_it_before_anything_is_read() -> None:
    with pytest.raises(RequestError, match="--dedup must be exact, near"):
        GenerateSpec(input=("rows.parquet",), output="out", dedup="fuzzy")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("titel", "--dedup: the output has no column 'titel'; did you mean title?"),
        ("score", "--dedup: column 'score' holds double; only texts, integers and booleans are compared"),
    ],
)
def test_a_column_must_be_in_the_output_and_hold_texts(name: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        dedup_config(Settings({"near": True, "columns": [name]}), COLUMNS)


def test_lists_of_completions_are_refused_with_the_setting_that_makes_rows() -> None:
    columns = pa.schema({"completions": pa.list_(pa.string())})
    with pytest.raises(RequestError, match="--dedup compares rows, not lists; use --samples-as rows"):
        dedup_config(Settings("near"), columns)
