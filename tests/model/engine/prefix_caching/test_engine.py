"""Prompts that begin with the same tokens share their prefill, and every request gets the bits that it gets in an
engine that caches no prefixes."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.model.tiny import RecordingRunner, build_engine, random_prompts, run, tiny_model
from tirazh.model.engine.admission import Admission
from tirazh.model.engine.batch_engine import BatchEngine
from tirazh.model.layers.packed_linear import pack_linears
from tirazh.model.requests import (
    EmbedRequest,
    EngineJob,
    GenerateRequest,
    Request,
    Result,
    SamplingParams,
    ScoreRequest,
    TextScoreRequest,
)

Tokens = tuple[int, ...]
LABELS = ((1, 2, 3), (1, 2, 4), (5,))
JOB_PREFIX = random_prompts([21], seed=9)[0]
SAMPLINGS = (
    SamplingParams(max_new_tokens=7, temperature=1.0),
    SamplingParams(max_new_tokens=12, temperature=0.9, top_k=30, repetition_penalty=1.3),
    SamplingParams(max_new_tokens=5, temperature=1.0, stop=(" 7", " 8", " 9")),
    SamplingParams(max_new_tokens=1, temperature=0),
)
KINDS = ("generate", "generate", "score", "text", "last", "mean")


@functools.cache
def model(mode: str) -> nn.Module:
    made = tiny_model(num_layers=2, sparse_mode=mode)
    pack_linears(made, rows=8)
    return made


def make(mode: str, *, prefixes: int, slots: int = 4, memory: int | None = None, **options: Any) -> BatchEngine:
    """An engine whose sequences and prefixes have `memory` bytes together, a byte for each token."""
    admission = None
    if memory is not None:
        held = [0]
        admission = Admission(
            slots, num_prefix_slots=prefixes, bytes_of=lambda tokens: tokens, free_bytes=lambda: memory - held[0]
        )
    engine = build_engine(
        model(mode),
        num_slots=slots,
        num_prefix_slots=prefixes,
        admission=admission,
        decode=lambda tokens: "".join(f" {token}" for token in tokens),
        **options,
    )
    engine.scheduler._prefixes.min_saved = 1
    return engine


def num_prefilled(engine: BatchEngine) -> int:
    """The tokens that prefill steps have computed."""
    assert isinstance(engine.runner, RecordingRunner)
    steps = [step for step, _ in engine.runner.seen if step.phase == "prefill"]
    return sum(segment.length for step in steps for segment in step.segments if segment.tree_parents is None)


def assert_is_empty(engine: BatchEngine) -> None:
    scheduler = engine.scheduler
    assert not engine.has_work
    assert not any(scheduler.slots)
    assert not scheduler.prefixes
    tree = scheduler._jobs.active.tree
    assert tree is None or not any(root.children for root in tree._roots.values())
    assert scheduler._admission is None or scheduler._admission._promised == [None] * len(scheduler._admission._held)


@st.composite
def prompts(draw: st.DrawFn) -> list[Tokens]:
    """Prompts of a random tree: each begins as an earlier one, up to any token (often a window's edge), or is equal."""
    texts = random_prompts([150] * 12, seed=draw(st.integers(0, 3)))
    made = [texts[0][: draw(st.integers(1, 120))]]
    for own in texts[1 : draw(st.integers(1, 11))]:
        parent = draw(st.sampled_from(made))
        num_same = draw(st.sampled_from([0, 16, 31, 32, 33, 48, 64]) | st.integers(0, 120) | st.just(len(parent)))
        num_own = draw(st.sampled_from([0, 0, 1, 16]) | st.integers(0, 40))
        made.append((parent[:num_same] + own[:num_own] or own[:1])[:150])
    return made


@st.composite
def request_lists(draw: st.DrawFn) -> list[Request]:
    requests: list[Request] = []
    for number, own in enumerate(draw(prompts())):
        prompt = (JOB_PREFIX if draw(st.booleans()) else ()) + own
        for sample in range(draw(st.sampled_from([1, 1, 2, 8]))):
            kind = draw(st.sampled_from(KINDS)) if not sample else "generate"
            requests.append(
                _request(kind, prompt, seed=100 * number + sample, sampling=draw(st.sampled_from(SAMPLINGS)))
            )
    return requests


def _request(kind: str, prompt: Tokens, *, seed: int, sampling: SamplingParams) -> Request:
    if kind == "generate":
        return GenerateRequest(prompt_token_ids=prompt, sampling=sampling, seed=seed)
    if kind == "score":
        return ScoreRequest(prompt_token_ids=prompt)
    if kind == "text":
        return TextScoreRequest(token_ids=(*prompt, 5), num_context=max(1, len(prompt) - 10))
    return EmbedRequest(prompt_token_ids=prompt, pooling="last" if kind == "last" else "mean")


@functools.cache
def _alone(mode: str, prefix: Tokens, requests: tuple[Request, ...]) -> list[Result]:
    engine = make(mode, prefixes=0, job=EngineJob(prefix_token_ids=prefix, labels=LABELS))
    return run(engine, requests)


OPTIONS = {
    "prefixes": st.sampled_from([1, 2, 8]),
    "slots": st.sampled_from([1, 2, 5, 16]),
    "memory": st.sampled_from([None, 100, 400, 1500]),
    "overlaps_steps": st.booleans(),
}


@settings(max_examples=40, deadline=None)
@given(
    requests=request_lists(),
    mode=st.sampled_from(["alternating", "none", "all"]),
    prefix=st.sampled_from([(), JOB_PREFIX]),
    waves=st.integers(1, 3),
    options=st.fixed_dictionaries(OPTIONS),
)
def test_any_prompts_get_the_bits_that_they_get_without_cached_prefixes(
    requests: list[Request], mode: str, prefix: Tokens, waves: int, options: dict[str, Any]
) -> None:
    engine = make(mode, job=EngineJob(prefix_token_ids=prefix, labels=LABELS), **options)
    results, ids = dict[int, Result](), list[int]()
    size = -(-len(requests) // waves)
    for wave in range(waves):
        ids += engine.add(requests[wave * size : (wave + 1) * size])
        results |= dict(engine.step())
    for _ in range(3_000):
        if not engine.has_work:
            break
        results |= dict(engine.step())
    assert_is_empty(engine)
    assert [results[id] for id in ids] == _alone(mode, prefix, tuple(requests))


@settings(max_examples=15, deadline=None)
@given(requests=request_lists(), gone=st.sets(st.integers(0, 40)), at=st.integers(0, 12), overlaps=st.booleans())
def test_cancelled_requests_free_their_forks_and_change_no_other_result(
    requests: list[Request], gone: set[int], at: int, overlaps: bool
) -> None:
    engine = make("alternating", prefixes=3, overlaps_steps=overlaps, job=EngineJob(labels=LABELS), memory=600)
    expected = _alone("alternating", (), tuple(requests))
    ids, results = engine.add(requests), dict[int, Result]()
    for number in range(3_000):
        if number == at:
            engine.cancel({ids[index] for index in gone if index < len(ids) and ids[index] not in results})
        if not engine.has_work:
            break
        results |= dict(engine.step())
    assert_is_empty(engine)
    for index, id in enumerate(ids):
        assert results.get(id, expected[index]) == expected[index]
        assert id in results or index in gone


def samples(prompt: Tokens, count: int, *, first_seed: int = 0, **changes: Any) -> list[Request]:
    sampling = replace(SAMPLINGS[0], **changes)
    return [GenerateRequest(prompt_token_ids=prompt, sampling=sampling, seed=first_seed + i) for i in range(count)]


@pytest.mark.parametrize("slots", [3, 16])
def test_eight_samples_of_each_prompt_of_300_tokens_prefill_each_prompt_once(slots: int) -> None:
    rows = random_prompts([300] * 4, seed=3)
    requests = [request for row, prompt in enumerate(rows) for request in samples(prompt, 8, first_seed=8 * row)]
    plain, shared = (make("alternating", prefixes=n, slots=slots, max_length=320) for n in (0, 2))
    expected = run(plain, requests)
    assert run(shared, requests) == expected
    assert len({result.token_ids for result in expected}) == len(requests)  # the samples differ
    assert num_prefilled(plain) == 8 * 4 * 300
    assert num_prefilled(shared) == 4 * 300


def test_twenty_prefixes_of_400_tokens_are_prefilled_once_each() -> None:
    """Whole chunks are shared: of 400 tokens, in windows of 16, all."""
    tails = random_prompts([9, 12, 5, 20, 7], seed=5)
    firsts = random_prompts([400] * 20, seed=4)
    prompts = [first + tail for tail in tails for first in firsts]
    requests: list[Request] = [ScoreRequest(prompt_token_ids=prompt) for prompt in prompts]
    plain, shared = (
        make("alternating", prefixes=n, slots=6, max_length=430, job=EngineJob(labels=LABELS)) for n in (0, 2)
    )
    assert run(shared, requests) == run(plain, requests)
    own = 20 * sum(map(len, tails))
    assert num_prefilled(plain) == 5 * 20 * 400 + own
    assert num_prefilled(shared) == 20 * 400 + own


def test_a_prefix_that_goes_on_from_another_one_is_forked_from_it() -> None:
    """Topic × style: two prompts of each of three styles behind each of two topics."""
    topics, styles = random_prompts([48, 64], seed=1), random_prompts([32, 32, 48], seed=2)
    tails = random_prompts([5, 6], seed=3)
    prompts = [topic + style + tail for topic in topics for style in styles for tail in tails]
    requests: list[Request] = [ScoreRequest(prompt_token_ids=prompt) for prompt in prompts]
    plain, shared = (make("alternating", prefixes=n, job=EngineJob(labels=LABELS)) for n in (0, 4))
    assert run(shared, requests) == run(plain, requests)
    assert num_prefilled(shared) == (48 + 64) + 2 * (32 + 32 + 48) + 6 * (5 + 6)


def test_only_whole_chunks_of_a_prefix_are_shared_so_that_prompts_are_cut_as_they_are_alone() -> None:
    (first,), tails = random_prompts([40], seed=1), random_prompts([7, 7], seed=3)
    requests = [samples(first + tail, 1)[0] for tail in tails]
    shared = make("alternating", prefixes=1)
    run(shared, requests)
    assert num_prefilled(shared) == 32 + 2 * (8 + 7)


def test_a_prefix_that_saves_little_is_not_cached() -> None:
    engine = make("alternating", prefixes=2)
    engine.scheduler._prefixes.min_saved = 64
    run(engine, samples(random_prompts([30])[0], 3))  # 60 tokens could be saved
    assert num_prefilled(engine) == 90
    run(engine, samples(random_prompts([30])[0], 4))
    assert num_prefilled(engine) == 90 + 30


def test_a_prefix_without_finite_logits_fails_all_its_samples_and_spoils_no_later_sequence() -> None:
    spoilt = tiny_model(num_layers=2)
    spoilt.get_submodule("model.embed_positions").weight.data[60] = float("nan")
    bad, good = random_prompts([70, 50])
    engine = build_engine(spoilt, num_slots=2, num_prefix_slots=1)
    engine.scheduler._prefixes.min_saved = 1
    results = run(engine, [*samples(bad, 4), *samples(good, 4)])
    assert [result.error is None for result in results] == [False] * 4 + [True] * 4
    alone = run(build_engine(spoilt, num_slots=2), samples(good, 4))
    assert results[4:] == alone
    assert run(engine, samples(good, 4)) == alone
