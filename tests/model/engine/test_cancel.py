"""Cancelled requests leave the engine, and no other request's result changes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.engine.workloads import LABELLED, Workload, build, mixed_requests
from tests.model.engine.workloads import FakeRunner as FakeModel
from tests.model.tiny import build_engine, drain, greedy_requests, random_prompts, run, tiny_model
from tirazh.model.engine.batch_engine import BatchEngine
from tirazh.model.requests import EngineJob, Request, Result, SamplingParams, ScoreRequest

PREFIX = LABELLED.prefix_token_ids


def fake_engine(*, overlaps_steps: bool, memory: int | None = None) -> BatchEngine:
    workload = Workload(waves=(), job=LABELLED, end_token_ids=(11, 12, 13), memory=memory)
    return build(workload, FakeModel(workload.num_slots, window_size=16, overlaps_steps=overlaps_steps))


def assert_is_empty(engine: BatchEngine) -> None:
    assert not engine.has_work
    assert not any(engine.scheduler.slots)
    admission = engine.scheduler._admission
    assert admission is None or not any(admission._promised)


@settings(max_examples=25)
@given(
    waves=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 12)), min_size=1, max_size=4),
    cancels=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 47)), max_size=20),
    overlaps_steps=st.booleans(),
    memory=st.sampled_from([None, 300]),
)
def test_random_cancellations_change_no_other_result(
    waves: list[tuple[int, int]], cancels: list[tuple[int, int]], overlaps_steps: bool, memory: int | None
) -> None:
    """`waves` are (seed, number of requests), of which one arrives every third step; `cancels` are (step,
    request)."""
    arriving = [mixed_requests(seed, count, prefix=PREFIX) for seed, count in waves]

    def run_all(cancels: Sequence[tuple[int, int]]) -> dict[int, Result]:
        engine, found, left = (
            fake_engine(overlaps_steps=overlaps_steps, memory=memory),
            dict[int, Result](),
            [*arriving],
        )
        added, gone = set[int](), set[int]()
        for number in range(2_000):
            if left and number % 3 == 0:
                added |= set(engine.add(left.pop(0)))
            cancelled = {id for step, id in cancels if step == number} & added - set(found)
            if cancelled:
                engine.cancel(cancelled)
                gone |= cancelled
            if not left and not engine.has_work:
                break
            found.update(engine.step())
        assert set(found) == added - gone
        assert_is_empty(engine)
        return found

    expected, found = run_all([]), run_all(cancels)
    assert found == {id: result for id, result in expected.items() if id in found}


def test_a_cancelled_request_frees_its_slot_for_the_next() -> None:
    engine = build_engine(tiny_model(), num_slots=1)
    first, second = engine.add(greedy_requests(random_prompts([20, 7]), SamplingParams(max_new_tokens=100)))
    engine.step()
    engine.cancel([first])
    steps, results = engine.counters.steps, dict(drain(engine))
    assert list(results) == [second]
    assert engine.counters.steps - steps <= 101
    assert_is_empty(engine)


@pytest.mark.parametrize("overlaps_steps", [False, True])
@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_what_a_cancelled_request_leaves_in_its_slot_changes_nothing(overlaps_steps: bool, num_steps: int) -> None:
    """The keys and values of the cancelled request are not finite, which its logits have not shown yet."""
    model, job = tiny_model(), EngineJob(labels=((1, 2), (1, 3)))
    prompts = random_prompts([40, 33, 12, 50])
    requests: list[Request] = [*greedy_requests(prompts[1:]), ScoreRequest(prompt_token_ids=prompts[1])]
    expected = run(build_engine(model, job=job, num_slots=2), requests)
    engine = build_engine(model, job=job, num_slots=2, overlaps_steps=overlaps_steps, prefill_rows=16)
    (cancelled,) = engine.add(greedy_requests(prompts[:1]))
    for _ in range(num_steps):
        engine.step()
    if num_steps == 1:
        for layer in engine.runner.runner.cache.layers:  # type: ignore[attr-defined]
            layer.k[0], layer.v[0] = torch.nan, torch.nan
    engine.cancel([cancelled])
    assert run(engine, requests) == expected
    assert_is_empty(engine)
