"""`run_job` in this process, without Ray and without a model: a whole job takes milliseconds."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pyarrow as pa
import pytest

from tirazh.model.tokenizer import load_tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.execution.progress import JobProgress
from tirazh.pipeline.input.read import read_part
from tirazh.pipeline.job_run import JobRun
from tirazh.pipeline.output.write import WriteStep
from tirazh.pipeline.prompts.encode import PromptStep
from tirazh.pipeline.repeated_rows import repetitions_of

LOGPROBS = [-0.223, -1.609]


def run_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patch `run_job` to make the parts of a job in this process.

    In a classify job with two labels the first one always wins. The completions of a generate job are the digits of
    the row's seed.
    """

    def make(self: JobRun, parts: list[Any]) -> dict[str, Any]:
        prompts, write = PromptStep(self.prompts.config), WriteStep(self.write_config())
        progress = JobProgress(
            self.plan,
            parts,
            samples=self._samples,
            max_error_rate=self.spec.max_error_rate,
            earlier_errors=self.earlier_errors,
            on_progress=self.on_progress,
        )
        repetitions = repetitions_of(self.plan, parts, self.prompts.config, self.output)
        for part in parts:
            rows = read_part(part, self.output.storage, self.plan.schema, repetitions.get(part.index))
            table = prompts(rows)
            is_classify = self.prompts.config.sampling is None
            answered = with_scores(table) if is_classify else with_seeds(table, self.prompts.config.tokenizer_dir)
            (written,) = write(answered).to_pylist()
            progress.add(written)
        return {}

    monkeypatch.setattr("tirazh.pipeline.build.ray_session", lambda spec, tell: nullcontext())
    monkeypatch.setattr("tirazh.pipeline.build.resolve_device", lambda spec: "cpu")
    monkeypatch.setattr("tirazh.pipeline.build.resolve_dtype", lambda device: "float32")
    monkeypatch.setattr("tirazh.pipeline.build.refuse_impossible", lambda config: None)
    monkeypatch.setattr(JobRun, "make", make)


def with_seeds(table: pa.Table, tokenizer_dir: str) -> pa.Table:
    """Replace the prompts of a part by completions that are the seeds of the rows."""
    tokenizer = load_tokenizer(tokenizer_dir)
    prompts = table.column(schema.PROMPT_IDS).to_pylist()
    seeds = table.column(schema.ROW_SEED).to_pylist()
    texts = [None if ids is None else str(seed) for ids, seed in zip(prompts, seeds, strict=True)]
    answers: dict[str, pa.Array[Any]] = {
        schema.NUM_PROMPT_IDS: pa.array([None if ids is None else len(ids) for ids in prompts], pa.int32()),
        schema.COMPLETION_IDS: pa.array(
            [None if text is None else [tokenizer.encode(text)] for text in texts], pa.list_(pa.list_(pa.int32()))
        ),
        schema.TEXT_ENDS: pa.array([None if text is None else [len(text)] for text in texts], pa.list_(pa.int32())),
        schema.REASONS: pa.array([None if text is None else ["length"] for text in texts], pa.list_(pa.string())),
    }
    table = table.drop_columns([schema.PROMPT_IDS, schema.ROW_SEED, schema.REPETITION])
    for name, column in answers.items():
        table = table.append_column(name, column)
    return table


def with_scores(table: pa.Table) -> pa.Table:
    """Replace the prompts of a part by what the model would return."""
    prompts = table.column(schema.PROMPT_IDS).to_pylist()
    counts = pa.array([None if ids is None else len(ids) for ids in prompts], pa.int32())
    scores = pa.array([None if ids is None else LOGPROBS for ids in prompts], pa.list_(pa.float64()))
    table = table.drop_columns([schema.PROMPT_IDS, schema.ROW_SEED, schema.REPETITION])
    return table.append_column(schema.NUM_PROMPT_IDS, counts).append_column(schema.LABEL_LOGPROBS, scores)
