"""`keep: [prompt, seed]`: which columns are written, and when the input has them already."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from tirazh.errors import InputError, RequestError
from tirazh.pipeline.columns import added_columns, check_columns, kept_columns
from tirazh.pipeline.prompts.source import prompt_source
from tirazh.pipeline.spec import GenerateSpec

KEEP: dict[str, Any] = {"input": ("in",), "output": "out", "keep": ("seed", "prompt")}
ROWS = pa.schema({"prompt": pa.string(), "seed": pa.int64()})
TEMPLATE = "{{ topic }}"
TOPICS = pa.schema({"topic": pa.string(), "prompt": pa.string()})


def test_a_name_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(RequestError, match=r"--keep may contain prompt and seed, not 'promt'; did you mean prompt\?"):
        GenerateSpec(**KEEP | {"keep": ("promt",)})


def test_what_is_kept_stands_before_the_completion() -> None:
    spec = GenerateSpec(**KEEP, template=TEMPLATE, samples=2, prefix="t_")
    names = added_columns(spec, pa.schema({"topic": pa.string()})).names
    assert names[:5] == ["t_sample", "t_prompt", "t_seed", "t_completion", "t_finish_reason"]
    assert added_columns(spec).field("t_seed").type == pa.int64()


@pytest.mark.parametrize(
    ("changes", "columns", "expected"),
    [
        ({}, ROWS, ()),
        ({"samples": 2, "samples_as": "lists"}, ROWS, ()),
        ({"prefix": "t_"}, ROWS, ("prompt", "seed")),
        ({"template": TEMPLATE}, pa.schema({"topic": pa.string(), "seed": pa.int64()}), ("prompt",)),
    ],
)
def test_a_column_that_the_input_has_is_not_written_again(
    changes: dict[str, Any], columns: pa.Schema, expected: tuple[str, ...]
) -> None:
    spec = GenerateSpec(**KEEP, **changes)
    assert kept_columns(spec, columns) == expected
    check_columns(columns, spec, prompt_source(spec))


@pytest.mark.parametrize(
    ("changes", "columns", "name"),
    [
        ({"template": TEMPLATE}, TOPICS, "prompt"),
        ({"samples": 2}, ROWS, "seed"),
        ({}, pa.schema({"prompt": pa.string(), "seed": pa.string()}), "seed"),
    ],
)
def test_another_column_of_the_name_is_refused(changes: dict[str, Any], columns: pa.Schema, name: str) -> None:
    """A column `prompt` beside a template, or a seed that is that of several samples."""
    spec = GenerateSpec(**KEEP, **changes)
    with pytest.raises(InputError, match=f"the input already has a column '{name}'; rename the added columns with"):
        check_columns(columns, spec, prompt_source(spec))
