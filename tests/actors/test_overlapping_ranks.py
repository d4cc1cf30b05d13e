"""Overlap scheduling changes no result of a model on several ranks. Only GPUs gain by it, but it works on CPUs too,
where it is tested here."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.distributed import RankPool, own_place, run_distributed
from tests.model import tiny
from tests.system.tiny_model import write_tiny_model
from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.model_engine import build_engine, build_runner
from tirazh.actors.progress import ProgressCounter
from tirazh.actors.step_channel import StepChannel, on_all_ranks
from tirazh.model.engine.runner import ModelRunner
from tirazh.model.requests import (
    Completion,
    Constraint,
    EmbedRequest,
    EngineJob,
    GenerateRequest,
    Request,
    SamplingParams,
    ScoreRequest,
    TextScoreRequest,
)
from tirazh.model.step import PLACEHOLDER, Step

PREFIX = tuple(range(40, 70))
LABELS = ((5, 6), (5, 7), (8,))
SLOTS = 4
_END = "end"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("overlapping"))


@pytest.fixture(scope="module")
def two_ranks() -> Iterator[RankPool]:
    with run_distributed(2) as ranks:
        yield ranks


@functools.cache
def runner_and_channel(config: ReplicaConfig) -> tuple[ModelRunner, StepChannel[Any]]:
    # As on two machines: sums over shared memory spin, which takes long where two ranks share a core.
    place = replace(own_place(), local_size=1, threads=1)
    return build_runner(config, place, ProgressCounter()), StepChannel[Any](timeout_s=60)


def config_of(model: str, *, slots: int = SLOTS) -> ReplicaConfig:
    jobs = (EngineJob(prefix_token_ids=PREFIX, labels=LABELS), EngineJob(labels=LABELS))
    return ReplicaConfig(model=model, tensor_parallel=2, jobs=jobs, slots=slots, seq_length=160)


def answers(model: str, slots: int, requests: list[Request], overlaps_steps: bool) -> tuple[list[Any], int] | None:
    """On rank 0: the results, and the number of steps with tokens that only the device knows. On other ranks None."""
    config = config_of(model, slots=slots)
    runner, channel = runner_and_channel(config_of(model))
    runner.overlaps_steps = overlaps_steps
    runner.set_prefix(config.jobs[0].prefix_token_ids, 512)  # an earlier call may have left that of another job
    if own_place().rank > 0:
        runner._last_tokens_S.zero_()  # what an earlier call left there may be right
        while (step := channel.receive()) != _END:
            runner.execute(step)
        return None
    execute, steps = on_all_ranks(runner.execute, channel), list[Step]()

    def recorded(step: Step) -> Any:
        steps.append(step)
        return execute(step)

    results = tiny.run(build_engine(config, runner, recorded), requests)
    channel.send(_END)
    return results, sum(bool((step.token_ids == PLACEHOLDER).any()) for step in steps)


@st.composite
def any_request(draw: st.DrawFn) -> Request:
    """Few different prompts, so that some are equal: the second one of them begins with kept logits."""
    length, first = draw(st.sampled_from([1, 5, 16, 40, 90])), draw(st.integers(0, 2))
    prompt = tuple((7 * i + first) % 250 for i in range(length))
    if draw(st.booleans()):
        prompt = PREFIX + prompt
    kind, job = draw(st.integers(0, 5)), draw(st.sampled_from([0, 0, 1]))
    if kind == 0:
        return ScoreRequest(prompt_token_ids=prompt, job=job)
    if kind == 1:
        return TextScoreRequest(token_ids=prompt, num_context=draw(st.integers(1, len(prompt))), job=job)
    if kind == 2:
        return EmbedRequest(prompt_token_ids=prompt, pooling=draw(st.sampled_from(["last", "mean"])), job=job)
    params = SamplingParams(
        max_new_tokens=draw(st.integers(1, 12)),
        temperature=draw(st.sampled_from([0, 0, 1.0])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.3])),
        min_new_tokens=draw(st.sampled_from([0, 1])),
        stop=draw(st.sampled_from([(), (), ("a", "b c")])),
    )
    constraint = draw(st.sampled_from([None, None, None, Constraint("regex", "[a-z]{2,9}")]))
    seed = draw(st.integers(0, 999))
    return GenerateRequest(prompt_token_ids=prompt, sampling=params, seed=seed, constraint=constraint, job=job)


@settings(max_examples=8, deadline=None)
@given(st.lists(any_request(), min_size=1, max_size=9), st.sampled_from([1, SLOTS]))
def test_two_ranks_answer_the_same_with_and_without_overlap(
    model: str, two_ranks: RankPool, requests: list[Request], slots: int
) -> None:
    """Tokens, log-probabilities, label scores and embeddings."""
    plain, overlapping = (two_ranks.run(answers, model, slots, requests, overlaps)[0] for overlaps in (False, True))
    assert overlapping[0] == plain[0]
    assert plain[1] == 0


def test_the_other_rank_computes_with_tokens_that_it_did_not_sample(model: str, two_ranks: RankPool) -> None:
    prompts = [tuple(range(first, 2 * first)) for first in (3, 50, 70)]
    requests: list[Request] = list(tiny.greedy_requests(prompts))
    plain, overlapping = (two_ranks.run(answers, model, SLOTS, requests, overlaps)[0] for overlaps in (False, True))
    assert overlapping == (plain[0], 11)  # the prompts give the first of 12 tokens
    assert all(isinstance(result, Completion) and len(set(result.token_ids)) > 1 for result in plain[0])
