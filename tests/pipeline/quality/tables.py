"""Tables of generated rows, and configs over them, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from tirazh.pipeline.quality.contamination import EvaluationSet
from tirazh.pipeline.quality.judge import QualityConfig, judge, quality_config
from tirazh.pipeline.spec import GenerateSpec


def generated(texts: Sequence[str | None], **columns: Any) -> pa.Table:
    """An output of generate with these completions, all finished and without errors unless `columns` say otherwise."""
    rows = len(texts)
    default = {
        "completion": pa.array(texts, pa.string()),
        "finish_reason": pa.array(["stop"] * rows, pa.string()),
        "completion_tokens": pa.array([10] * rows, pa.int32()),
        "error": pa.nulls(rows, pa.string()),
    }
    return pa.table(default | columns)


def config_for(
    table: pa.Table, *, prompt_column: str | None = None, evaluation: EvaluationSet | None = None, **settings: Any
) -> QualityConfig:
    """The config of a spec with these settings."""
    spec = GenerateSpec(input=("in.parquet",), output="out", **settings)
    config = quality_config(
        spec, table.schema, text_column="completion", prompt_column=prompt_column, evaluation=evaluation
    )
    assert config is not None
    return config


def reasons_for(texts: Sequence[str | None], filters: Any, **columns: Any) -> list[list[str]]:
    """The reasons of each text."""
    table = generated(texts, **columns)
    prompt_column = "prompt" if "prompt" in columns else None
    return judge(table, config_for(table, filters=filters, prompt_column=prompt_column))[1]
