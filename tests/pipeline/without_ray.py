"""`run_job` in this process, without Ray and without a model: a whole job takes milliseconds."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pyarrow as pa
import pytest

from tirazh.pipeline import schema
from tirazh.pipeline.execution.progress import JobProgress
from tirazh.pipeline.input.read import read_part
from tirazh.pipeline.job_run import JobRun
from tirazh.pipeline.output.write import WriteStep
from tirazh.pipeline.prompts.encode import PromptStep

LOGPROBS = [-0.223, -1.609]


def run_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patch `run_job` to make the parts of a two-label classify job in this process; the first
    label always wins.
    """

    def make(self: JobRun, parts: list[Any]) -> dict[str, Any]:
        prompts, write = PromptStep(self.prompts.config), WriteStep(self.write_config())
        progress = JobProgress(
            self.plan,
            parts,
            samples=1,
            max_error_rate=self.spec.max_error_rate,
            earlier_errors=self.earlier_errors,
            on_progress=self.on_progress,
        )
        for part in parts:
            rows = read_part(part, self.output.storage, self.plan.schema)
            (written,) = write(with_scores(prompts(rows))).to_pylist()
            progress.add(written)
        return {}

    monkeypatch.setattr("tirazh.pipeline.build.ray_session", lambda spec, tell: nullcontext())
    monkeypatch.setattr("tirazh.pipeline.build.resolve_device", lambda spec: "cpu")
    monkeypatch.setattr("tirazh.pipeline.build.resolve_dtype", lambda device: "float32")
    monkeypatch.setattr("tirazh.pipeline.build.refuse_impossible", lambda config: None)
    monkeypatch.setattr(JobRun, "make", make)


def with_scores(table: pa.Table) -> pa.Table:
    """Replace the prompts of a part by what the model would return."""
    prompts = table.column(schema.PROMPT_IDS).to_pylist()
    counts = pa.array([None if ids is None else len(ids) for ids in prompts], pa.int32())
    scores = pa.array([None if ids is None else LOGPROBS for ids in prompts], pa.list_(pa.float64()))
    table = table.drop_columns([schema.PROMPT_IDS, schema.ROW_SEED, schema.REPETITION])
    return table.append_column(schema.NUM_PROMPT_IDS, counts).append_column(schema.LABEL_LOGPROBS, scores)
