"""Embeddings: the last hidden states of transformers and of the whole sparse model, the same bits beside any others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.model.engine.workloads import FakeRunner, Workload, build
from tests.model.families.random_models import MODELS, VOCABULARY, random_model
from tests.model.tiny import build_engine, drain, random_prompts, run, tiny_model
from tirazh.model.engine.pooling import Pool
from tirazh.model.layers.packed_linear import pack_linears
from tirazh.model.requests import (
    Embedding,
    EmbedRequest,
    EngineJob,
    GenerateRequest,
    Request,
    Result,
    SamplingParams,
    ScoreRequest,
)

LENGTHS = [1, 15, 16, 17, 40, 90]
PREFIX = random_prompts([21], seed=3)[0]
LABELLED = EngineJob(prefix_token_ids=PREFIX, labels=((1, 2), (3,)))
SETTINGS = {"max_length": 120, "num_tokens": VOCABULARY}


def whole_pass(model: nn.Module, prompt: Sequence[int]) -> NDArray[np.float32]:
    """transformers' hidden states behind the last layer and its norm, float32 [N, C]."""
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        out = model(torch.tensor([list(prompt)]), output_hidden_states=True)
    hidden: Tensor = out.hidden_states[-1][0]
    return hidden.float().numpy()


def of_own_model(model: nn.Module, prompt: Sequence[int]) -> NDArray[np.float32]:
    model.set_attn_implementation("sdpa")
    with torch.inference_mode():
        return model.model(torch.tensor([list(prompt)])).last_hidden_state[0].float().numpy()


def embed(prompts: Sequence[tuple[int, ...]]) -> list[Request]:
    """Both kinds of pooling for every prompt, one behind the other."""
    return [EmbedRequest(prompt_token_ids=prompt, pooling=kind) for prompt in prompts for kind in ("last", "mean")]


def assert_close(result: Result, expected: NDArray[np.float32]) -> None:
    assert isinstance(result, Embedding)
    assert result.error is None
    assert np.abs(np.asarray(result.values) - expected).max() < 1e-4


@pytest.mark.parametrize("name", ["llama", "gpt2, scaled by layer", "gemma2"])
def test_an_embedding_is_transformers_last_hidden_state(name: str) -> None:
    model, prompts = random_model(MODELS[name]()), random_prompts(LENGTHS)
    expected = [whole_pass(model, prompt) for prompt in prompts]
    pack_linears(model, rows=8)
    results = run(build_engine(model, **SETTINGS), embed(prompts))
    for hidden_NC, last, mean in zip(expected, results[::2], results[1::2], strict=True):
        assert_close(last, hidden_NC[-1])
        assert_close(mean, hidden_NC.mean(axis=0))


@pytest.mark.parametrize("mode", ["alternating", "all", "none"])
def test_an_embedding_is_the_whole_sparse_model_s_last_hidden_state(mode: str) -> None:
    """The reference runs in float64. Its hidden states are those from which the output matrix makes the logits."""
    model, reference = (tiny_model(sparse_mode=mode).to(dtype) for dtype in (torch.float32, torch.double))
    prompts = random_prompts(LENGTHS)
    expected = [of_own_model(reference, prompt) for prompt in prompts]
    logits = model(torch.tensor([prompts[-1]])).logits[0, -1]
    assert torch.allclose(model.lm_head(torch.from_numpy(expected[-1][-1])), logits, atol=1e-4)
    results = run(build_engine(model, **SETTINGS), embed(prompts))
    for hidden_NC, last, mean in zip(expected, results[::2], results[1::2], strict=True):
        assert_close(last, hidden_NC[-1])
        assert_close(mean, hidden_NC.mean(axis=0))


def test_a_shared_prefix_is_read_by_a_prompt_and_is_not_in_its_mean() -> None:
    model = tiny_model()
    prompts = [*(PREFIX + own for own in random_prompts(LENGTHS)), PREFIX, *random_prompts([9])]
    expected = [of_own_model(model, prompt) for prompt in prompts]
    engine = build_engine(model, job=LABELLED, **SETTINGS)
    results = run(engine, embed(prompts))
    for prompt, hidden_NC, last, mean in zip(prompts, expected, results[::2], results[1::2], strict=True):
        shared = len(PREFIX) if prompt[:21] == PREFIX and len(prompt) > 21 else 0
        assert_close(last, hidden_NC[-1])
        assert_close(mean, hidden_NC[shared:].mean(axis=0))


def mixed_requests() -> list[Request]:
    prompts = [PREFIX + own if number % 3 else own for number, own in enumerate(random_prompts([1, 9, 16, 30, 50, 70]))]
    sampling = SamplingParams(max_new_tokens=5)
    return [
        *embed(prompts),
        *(ScoreRequest(prompt_token_ids=prompt) for prompt in prompts),
        *(GenerateRequest(prompt_token_ids=prompt, sampling=sampling, seed=i) for i, prompt in enumerate(prompts)),
    ]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    made = tiny_model(num_layers=2)
    pack_linears(made, rows=8)
    return made


@pytest.fixture(scope="module")
def alone(model: nn.Module) -> list[Result]:
    return [run(build_engine(model, num_slots=1, job=LABELLED), [request])[0] for request in mixed_requests()]


@settings(max_examples=10, deadline=None)
@given(
    order=st.permutations(range(24)),
    count=st.integers(1, 24),
    slots=st.sampled_from([1, 3, 8]),
    overlaps_steps=st.booleans(),
)
def test_an_embedding_has_the_same_bits_beside_any_requests(
    model: nn.Module, alone: list[Result], order: list[int], count: int, slots: int, overlaps_steps: bool
) -> None:
    requests, chosen = mixed_requests(), order[:count]
    engine = build_engine(model, num_slots=slots, job=LABELLED, overlaps_steps=overlaps_steps)
    assert run(engine, [requests[index] for index in chosen]) == [alone[index] for index in chosen]


def test_no_logits_are_computed_for_embeddings(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = build_engine(model)
    monkeypatch.setattr(engine.runner.runner, "_head", None)
    results = run(engine, embed(random_prompts(LENGTHS)))
    assert all(result.error is None for result in results)
    assert [len(step.logit_rows) for step, _ in engine.runner.seen] == [0] * engine.counters.steps
    assert engine.counters.finished == 2 * len(LENGTHS)


def test_a_prompt_may_fill_a_sequence_and_no_more() -> None:
    engine = build_engine(tiny_model(num_layers=2), max_length=40)
    full, longer, empty = run(engine, [EmbedRequest(prompt_token_ids=(1,) * length) for length in (40, 41, 0)])
    assert full.error is None
    assert longer == Embedding(values=(), error="the prompt has 41 tokens; with what follows it, 40 fit")
    assert empty == Embedding(values=(), error="the prompt is empty")


@pytest.mark.parametrize("num_slots", [1, 3])
def test_a_prompt_with_non_finite_hidden_states_fails_alone(num_slots: int) -> None:
    model = tiny_model(num_layers=2)
    with torch.no_grad():
        model.model.embed_tokens.weight[300] = torch.nan
    good, other = (tuple(token % 200 + 1 for token in prompt) for prompt in random_prompts([20, 40]))
    results = run(build_engine(model, num_slots=num_slots), embed([(*good, 300, *other), good, (300,), other]))
    error = "the model produced non-finite hidden states for this prompt"
    assert [result.error for result in results] == [error, error, None, None] * 2
    assert results[2:4] + results[6:] == run(build_engine(model), embed([good, other]))


def test_a_cancelled_embedding_frees_its_slot() -> None:
    """The fake model's hidden states are a row's token and its position."""
    engine = build(Workload(waves=()), FakeRunner(6, window_size=16, overlaps_steps=True))
    cancelled, kept = engine.add([EmbedRequest(prompt_token_ids=(5,) * length, pooling="mean") for length in (90, 71)])
    engine.step()
    engine.cancel([cancelled])
    assert [(id, list(result.values)) for id, result in drain(engine)] == [(kept, [5.0, 35.0])]
    assert not any(engine.scheduler.slots)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(0, 99), st.integers(1, 70))
def test_a_mean_has_the_same_bits_however_its_rows_are_grouped(sizes: list[int], seed: int, channels: int) -> None:
    generator = np.random.default_rng(seed)
    rows = (generator.standard_normal((sum(sizes), channels)) * 1e3).astype(np.float32)
    grouped, single = Pool(len(rows)), Pool(len(rows))
    for part in np.split(rows, np.cumsum(sizes)[:-1]):
        grouped.add(part)
    for row in rows:
        single.add(row[None])
    assert grouped.embedding() == single.embedding()
    assert grouped.num_missing == 0
    assert np.allclose(grouped.embedding().values, rows.astype(np.float64).mean(axis=0), rtol=1e-6, atol=1e-4)
