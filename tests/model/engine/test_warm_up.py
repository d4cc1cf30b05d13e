"""The steps that run before the first request: all shapes of a job, and no trace of them afterwards."""

from __future__ import annotations

import pytest
import torch

from tests.model.tiny import DECODE_ROWS, NUM_TOKENS, PREFILL_ROWS, greedy_requests, random_prompts, run, tiny_model
from tirazh.model.attention.kv_cache import KVCache
from tirazh.model.engine.batch_engine import BatchEngine
from tirazh.model.engine.config import EngineConfig
from tirazh.model.engine.runner import ModelRunner
from tirazh.model.engine.scheduler import Scheduler
from tirazh.model.engine.warm_up import compile_kernels, warm_up
from tirazh.model.requests import EngineCounters, EngineJob, Request, ScoreRequest
from tirazh.model.step import Step, StepRows

ROWS = StepRows(prefill=PREFILL_ROWS, decode=DECODE_ROWS, prefill_logits=4)
LABELS = ((1, 2, 3), (1, 4), (5,))
JOBS = {
    "neither": EngineJob(),
    "a shared prefix": EngineJob(prefix_token_ids=tuple(range(37))),
    "labels": EngineJob(labels=LABELS),
    "a shared prefix and labels": EngineJob(prefix_token_ids=tuple(range(37)), labels=LABELS),
}
all_jobs = pytest.mark.parametrize("job", JOBS.values(), ids=JOBS.keys())


def new_runner(job: EngineJob, *, num_slots: int = 3, max_length: int = 200) -> ModelRunner:
    runner = ModelRunner(
        tiny_model(), num_slots=num_slots, max_length=max_length, logit_rows=ROWS.decode, prefill_logit_rows=4
    )
    runner.set_prefix(job.prefix_token_ids, ROWS.prefill)
    return runner


def steps_of(runner: ModelRunner, job: EngineJob, monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """The steps that `warm_up` runs."""
    steps, execute = list[Step](), runner._execute

    def record(step: Step, cache: KVCache) -> torch.Tensor:
        steps.append(step)
        return execute(step, cache)

    monkeypatch.setattr(runner, "_execute", record)
    warm_up(runner, job, ROWS)
    return steps


@all_jobs
def test_one_prefill_step_and_one_decode_step_hold_every_kind_of_row(
    job: EngineJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefill, decode = steps_of(new_runner(job), job, monkeypatch)
    assert (prefill.phase, len(prefill.token_ids)) == ("prefill", PREFILL_ROWS)
    assert (decode.phase, len(decode.token_ids)) == ("decode", DECODE_ROWS)
    for step in (prefill, decode):
        behind_prefix = {segment.start >= 37 for segment in step.segments if segment.tree_parents is None}
        assert behind_prefix == ({True, False} if job.prefix_token_ids else {False})
    assert any(segment.tree_parents for segment in prefill.segments) == bool(job.labels)


@pytest.mark.parametrize("num_slots", [1, 40])
@pytest.mark.parametrize("max_length", [1, 2, 38, 39, 512])
def test_any_number_of_slots_and_any_length_can_be_warmed_up(
    num_slots: int, max_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = EngineJob(prefix_token_ids=tuple(range(min(37, max_length))), labels=LABELS)
    steps = steps_of(new_runner(job, num_slots=num_slots, max_length=max_length), job, monkeypatch)
    for step in steps:
        assert max(segment.start + segment.length for segment in step.segments) <= max_length + len(LABELS)


@pytest.mark.parametrize("max_length", [1, 2, 16, 17, 33, 512])
def test_kernels_can_be_compiled_for_sequences_of_any_length(max_length: int) -> None:
    compile_kernels(new_runner(EngineJob(), num_slots=1, max_length=max_length), ROWS)


@all_jobs
def test_the_cache_and_its_slots_are_those_of_a_fresh_runner(job: EngineJob) -> None:
    fresh, warm = new_runner(job), new_runner(job)
    compile_kernels(warm, ROWS)
    warm_up(warm, job, ROWS)
    assert (warm.cache.lengths, warm.cache.has_prefix) == (fresh.cache.lengths, fresh.cache.has_prefix)
    assert torch.equal(warm._last_tokens_S, fresh._last_tokens_S)
    for mine, expected in zip(warm.cache.layers, fresh.cache.layers, strict=True):
        assert torch.equal(mine.k, expected.k)
        assert torch.equal(mine.v, expected.v)


@all_jobs
def test_results_and_counters_are_those_of_a_fresh_engine(job: EngineJob) -> None:
    def run_all(runner: ModelRunner) -> tuple[list[object], EngineCounters]:
        config = EngineConfig(
            num_slots=3,
            max_length=200,
            num_tokens=NUM_TOKENS,
            end_token_ids=(),
            prefill_rows=ROWS.prefill,
            decode_rows=ROWS.decode,
        )
        engine = BatchEngine(runner, Scheduler(config, job, window_size=runner.window_size))
        prompts = random_prompts([5, 40, 17, 33, 60]) + [(*job.prefix_token_ids, 7, 8, number) for number in range(4)]
        scored: list[Request] = [ScoreRequest(prompt_token_ids=prompt) for prompt in prompts] if job.labels else []
        return list(run(engine, [*greedy_requests(prompts), *scored])), engine.counters

    warm = new_runner(job)
    warm_up(warm, job, ROWS)
    assert run_all(warm) == run_all(new_runner(job))


def test_every_layer_and_every_matmul_of_logits_reports_progress() -> None:
    runner, reports = new_runner(EngineJob()), list[None]()
    runner.on_progress = lambda: reports.append(None)
    warm_up(runner, EngineJob(), ROWS)
    assert len(reports) == 2 * (len(runner.shapes) + 1)
