"""Overlap scheduling changes no result. Only a GPU gains by it, but it works on a CPU too, where it
is tested here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.tiny import NUM_TOKENS, build_engine, drain, greedy_requests, random_prompts, run, tiny_model
from tirazh.model.gpt import RuGPT3ForCausalLM
from tirazh.model.requests import (
    Completion,
    EngineJob,
    GenerateRequest,
    Request,
    SamplingParams,
    ScoreRequest,
    TextScoreRequest,
)
from tirazh.model.step import PLACEHOLDER

JOB = EngineJob(prefix_token_ids=random_prompts([21], seed=9)[0], labels=((1, 2, 3), (1, 4), (5,)))


@pytest.fixture(scope="module")
def model() -> RuGPT3ForCausalLM:
    return tiny_model(num_layers=2)


def spell(token_ids: list[int]) -> str:
    return "".join(f" {token}" for token in token_ids)


@st.composite
def any_request(draw: st.DrawFn) -> Request:
    prompt = random_prompts([draw(st.integers(1, 60))], seed=draw(st.integers(0, 99)))[0]
    if draw(st.booleans()):
        prompt = JOB.prefix_token_ids + prompt
    if draw(st.integers(0, 3)) == 0:
        return ScoreRequest(prompt_token_ids=prompt)
    if draw(st.integers(0, 3)) == 0:
        return TextScoreRequest(token_ids=prompt, num_context=draw(st.integers(1, len(prompt))))
    params = SamplingParams(
        max_new_tokens=draw(st.integers(1, 12)),
        temperature=draw(st.sampled_from([0, 1.0])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.3])),
        no_repeat_ngram_size=draw(st.sampled_from([0, 0, 2])),
        min_p=draw(st.sampled_from([0.0, 0.1])),
        min_new_tokens=draw(st.sampled_from([0, 1])),
        presence_penalty=draw(st.sampled_from([0, 0, 0.5])),
        bad_words=draw(st.sampled_from([(), ((7,), (8, 9))])),
        stop=draw(st.sampled_from([(), (" 7", " 12")])),
    )
    return GenerateRequest(prompt_token_ids=prompt, sampling=params, seed=draw(st.integers(0, 999)))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(any_request(), min_size=1, max_size=9),
    st.integers(1, 9),
    st.sampled_from([0, 50, 200]),
    st.sampled_from([90, 200]),
)
def test_overlap_scheduling_gives_the_same_results(
    requests: list[Request], num_slots: int, num_ends: int, max_length: int
) -> None:
    """With all finish reasons and with rows that read their history; `num_ends` tokens end a
    completion."""
    model = tiny_model(num_layers=2)
    ends = tuple(range(num_ends))
    kind = {"num_slots": num_slots, "job": JOB, "decode": spell, "end_token_ids": ends, "max_length": max_length}
    overlapping = build_engine(model, **kind, overlaps_steps=True)
    plain = build_engine(model, **kind)
    assert run(overlapping, requests) == run(plain, requests)
    assert overlapping.counters.completion_tokens == plain.counters.completion_tokens


def test_a_step_is_launched_before_the_tokens_of_the_previous_step_are_read(model: RuGPT3ForCausalLM) -> None:
    engine = build_engine(model, overlaps_steps=True)
    list(run(engine, greedy_requests(random_prompts([5, 9]))))
    decoded = [step for step, _ in engine.runner.seen if step.phase == "decode"]  # type: ignore[attr-defined]
    assert all((step.token_ids[[s.row for s in step.segments]] == PLACEHOLDER).all() for step in decoded)
    # All ends were known beforehand, so no step runs in vain: a prefill step gives the first of 12
    # tokens.
    assert len(decoded) == 11


def test_a_row_with_a_repetition_penalty_waits_for_its_tokens(model: RuGPT3ForCausalLM) -> None:
    engine = build_engine(model, overlaps_steps=True)
    params = SamplingParams(max_new_tokens=8, temperature=0, repetition_penalty=1.2)
    run(engine, greedy_requests(random_prompts([5]), params))
    assert not any((step.token_ids == PLACEHOLDER).any() for step, _ in engine.runner.seen)  # type: ignore[attr-defined]


def test_tokens_sampled_behind_an_end_token_are_dropped(model: RuGPT3ForCausalLM) -> None:
    prompts = random_prompts([5, 9, 30])
    free = run(build_engine(model), greedy_requests(prompts))
    end = free[0].token_ids[3]  # type: ignore[union-attr]
    engine = build_engine(model, overlaps_steps=True, end_token_ids=(end,))
    results = run(engine, greedy_requests(prompts))
    for result, longer in zip(results, free, strict=True):
        assert isinstance(result, Completion)
        assert isinstance(longer, Completion)
        assert result.token_ids == longer.token_ids[: len(result.token_ids)]
        assert end not in result.token_ids


def test_a_row_with_nan_logits_fails_alone_and_its_slot_is_zeroed() -> None:
    model = tiny_model(num_layers=2, tie_word_embeddings=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[300] = torch.nan
    good = [tuple(token % 200 + 1 for token in prompt) for prompt in random_prompts([5, 20, 40])]
    prompts = [(*good[1], 300), good[0], (300,), good[1], good[2]]
    for num_slots in (1, 2, 5):
        results = run(build_engine(model, num_slots=num_slots, overlaps_steps=True), greedy_requests(prompts))
        assert [result.error is None for result in results] == [False, True, False, True, True]
        assert [results[index] for index in (1, 3, 4)] == run(build_engine(model), greedy_requests(good))


def test_requests_may_arrive_while_steps_are_running(model: RuGPT3ForCausalLM) -> None:
    prompts = random_prompts(list(np.random.default_rng(3).integers(1, 70, 12)))
    expected = run(build_engine(model), greedy_requests(prompts))
    engine, found = build_engine(model, overlaps_steps=True), {}
    for prompt in prompts:
        ids = engine.add(greedy_requests([prompt]))
        found.update(dict.fromkeys(ids))
        found.update(engine.step())
    found.update(drain(engine))
    assert list(found.values()) == expected
    assert max(token for result in expected for token in result.token_ids) < NUM_TOKENS  # type: ignore[union-attr]
