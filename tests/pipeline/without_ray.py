"""`run_job` in this process, without Ray and without a model: a whole job takes milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pytest

from tirazh.actors.messages import ReplicaConfig
from tirazh.model.checkpoints.directory import resolve_model
from tirazh.model.requests import Completion, GenerateRequest
from tirazh.pipeline import schema
from tirazh.pipeline.execution.infer import InferConfig, append_results, make_requests
from tirazh.pipeline.execution.progress import JobProgress
from tirazh.pipeline.input.read import read_part
from tirazh.pipeline.job_run import JobRun
from tirazh.pipeline.output.write import WriteStep
from tirazh.pipeline.prompts.encode import PromptStep
from tirazh.pipeline.repeated_rows import repetitions_of

LOGPROBS = [-0.223, -1.609]
Answer = Callable[[JobRun, Sequence[Any]], Sequence[Any]]


def echo_seeds(run: JobRun, requests: Sequence[GenerateRequest]) -> list[Completion]:
    """Completions of two tokens that follow from the request's seed alone."""
    return [
        Completion(token_ids=[40 + request.seed % 50, 40 + request.seed // 50 % 50], finish_reason="length")
        for request in requests
    ]


def with_the_model(run: JobRun, requests: Sequence[Any]) -> list[Any]:
    """The results of the job's own model, on one thread of this process."""
    from tests.model.tiny import run as run_engine

    return run_engine(_engine_of(replace(run.replica_config(threads=1), model=resolve_model(run.spec.model))), requests)


@lru_cache(maxsize=4)
def _engine_of(config: ReplicaConfig) -> Any:
    from tirazh.actors.model_engine import build_engine, build_runner
    from tirazh.actors.progress import ProgressCounter
    from tirazh.actors.rendezvous import RankPlace

    place = RankPlace(rank=0, world_size=1, local_rank=0, local_size=1, threads=1)
    runner = build_runner(config, place, ProgressCounter())
    return build_engine(config, runner, runner.execute)


def run_without_ray(monkeypatch: pytest.MonkeyPatch, answer: Answer = echo_seeds) -> None:
    """Patch `run_job` to make parts in this process. `answer` returns the results of the requests of a generate
    job; of a two-label classify job the first label always wins.
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
            scored = (
                with_scores(table)
                if self.spec.kind == "classify" and self.head is None
                else with_answers(self, table, answer)
            )
            (written,) = write(scored).to_pylist()
            progress.add(written)
        return {}

    monkeypatch.setattr("tirazh.pipeline.build.ray_session", lambda spec, tell: nullcontext())
    monkeypatch.setattr("tirazh.pipeline.build.sharing_replicas", nullcontext)
    monkeypatch.setattr("tirazh.pipeline.build.resolve_device", lambda spec: "cpu")
    monkeypatch.setattr("tirazh.pipeline.build.resolve_dtype", lambda device: "float32")
    monkeypatch.setattr("tirazh.pipeline.build.refuse_impossible", lambda config: None)
    monkeypatch.setattr(JobRun, "make", make)


def with_answers(run: JobRun, table: pa.Table, answer: Answer) -> pa.Table:
    """The table of a part as the inference step returns it."""
    config: InferConfig = run.infer_config(None, None)  # type: ignore[arg-type]
    good = [row for row, error in enumerate(table.column(schema.ROW_ERROR).to_pylist()) if error is None]
    requests = make_requests(table.take(good), config) if good else []
    return append_results(table, good, answer(run, requests) if requests else [], config)


def with_scores(table: pa.Table) -> pa.Table:
    """Replace the prompts of a part by what the model would return."""
    prompts = table.column(schema.PROMPT_IDS).to_pylist()
    counts = pa.array([None if ids is None else len(ids) for ids in prompts], pa.int32())
    scores = pa.array([None if ids is None else LOGPROBS for ids in prompts], pa.list_(pa.float64()))
    table = table.drop_columns([schema.PROMPT_IDS, schema.ROW_SEED, schema.REPETITION])
    return table.append_column(schema.NUM_PROMPT_IDS, counts).append_column(schema.LABEL_LOGPROBS, scores)
