"""Columns of the input against the columns that a job adds, compared as the readers of the output do."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from tirazh.errors import InputError
from tirazh.pipeline.columns import check_columns
from tirazh.pipeline.prompts.source import prompt_source
from tirazh.pipeline.spec import ClassifySpec


def check(columns: dict[str, Any], **settings: Any) -> None:
    spec = ClassifySpec(input=("in",), output="out", model="m", labels={"a": "a", "b": "b"}, **settings)
    check_columns(pa.schema(columns), spec, prompt_source(spec))


@pytest.mark.parametrize("name", ["Label", "LABEL", "Error", "Prompt_Tokens"])
def test_names_of_added_columns_are_taken_in_every_case(name: str) -> None:
    with pytest.raises(InputError, match=f"already has a column '{name}', which Spark and DuckDB do not distinguish"):
        check({"text": pa.string(), name: pa.string()})
    check({"text": pa.string(), name: pa.string()}, prefix="t_")


def test_columns_that_differ_only_in_case_are_named() -> None:
    with pytest.raises(InputError, match="the columns 'Тема' and 'тема', which differ only in case"):
        check({"text": pa.string(), "Тема": pa.string(), "тема": pa.string()})


def test_a_template_may_use_what_has_a_form_as_text() -> None:
    kinds = {"id": pa.uuid(), "js": pa.json_(), "day": pa.date32(), "flag": pa.bool8()}
    for name, kind in kinds.items():
        check({"text": pa.string(), name: kind}, template=f"{{{{ {name} }}}} {{{{ text }}}}")
    for kind in (pa.binary(16), pa.dictionary(pa.int8(), pa.binary()), pa.opaque(pa.binary(), "a", "b")):
        with pytest.raises(InputError, match="not text"):
            check({"text": pa.string(), "raw": kind}, template="{{ raw }} {{ text }}")


def test_the_text_may_be_json() -> None:
    check({"text": pa.json_()})
