"""Finished outputs of whole jobs without Ray and without a model, whose labels have scores of a synthetic model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.classification.calibration.samples import draw
from tests.pipeline.without_ray import run_without_ray
from tirazh.pipeline import schema
from tirazh.pipeline.build import run_job
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.prompt_setup import set_up_prompts
from tirazh.pipeline.prompts.prepare import PreparedPrompts
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.storage.filesystem import Storage

LABELS = ("economics", "sport", "culture")
ONE = {label: label for label in LABELS}


def jobs_with_scores(monkeypatch: pytest.MonkeyPatch, scores: np.ndarray) -> None:
    """Let `run_job` give the row `text N` the scores `scores[N]`, without Ray; a null text is an error of its row."""
    run_without_ray(monkeypatch)

    def with_scores(table: pa.Table) -> pa.Table:
        prompts = table.column(schema.PROMPT_IDS).to_pylist()
        texts = table.column("text").to_pylist()
        counts = pa.array([None if ids is None else len(ids) for ids in prompts], pa.int32())
        rows = [
            None if ids is None else scores[int(text.split()[1])].tolist()
            for ids, text in zip(prompts, texts, strict=True)
        ]
        table = table.drop_columns([schema.PROMPT_IDS, schema.ROW_SEED, schema.REPETITION])
        return table.append_column(schema.NUM_PROMPT_IDS, counts).append_column(
            schema.LABEL_LOGPROBS, pa.array(rows, pa.list_(pa.float64()))
        )

    def set_up(spec: Any, plan: Any) -> PreparedPrompts:
        # The prompts of several questions are not what is tested here.
        return set_up_prompts(spec if spec.questions is None else replace(spec, questions=None, labels=ONE), plan)

    monkeypatch.setattr("tests.pipeline.without_ray.with_scores", with_scores)
    monkeypatch.setattr("tirazh.pipeline.build.set_up_prompts", set_up)


def write_news(folder: Path, rows: int, *, labels: tuple[str, ...] = LABELS, seed: int = 0) -> np.ndarray:
    """Write `rows` input rows with an `id` and the gold label `topic` to `folder/in`, and return their scores; the text
    of the last row is null."""
    scores, gold = draw(rows, len(labels), seed=seed, bias=0.7)
    texts: list[Any] = [f"text {number}" for number in range(rows - 1)] + [None]
    table = pa.table({"id": pa.array(range(rows), pa.int64()), "text": texts, "topic": [labels[each] for each in gold]})
    (folder / "in").mkdir(exist_ok=True)
    pq.write_table(table, folder / "in/news.parquet")
    return scores


def spec_of(folder: Path, model_dir: Path, **changes: Any) -> ClassifySpec:
    """A job over the rows of `write_news`."""
    return ClassifySpec(
        **{  # type: ignore[arg-type]
            "input": (str(folder / "in"),),
            "output": str(folder / "out"),
            "model": str(model_dir),
            "labels": ONE,
            "dtype": "float32",
            "part_rows": 100,
            **changes,
        }
    )


def run(spec: ClassifySpec) -> str:
    """Run the job and return its output directory."""
    run_job(spec)
    return spec.output


def rows_of(output: str) -> pa.Table:
    """All rows of an output, without metadata."""
    files = OutputFiles.at(output, Storage())
    tables = [pq.read_table(pa.BufferReader(files.storage.read(files.part(name)))) for name in sorted(files.parts())]
    return pa.concat_tables(tables).replace_schema_metadata(None)
