"""Sampling: the original's order, the penalties of transformers, and samples that follow the
probabilities."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from tirazh.errors import RequestError
from tirazh.model.engine import sampling
from tirazh.model.engine.logit_edits import LogitEdits
from tirazh.model.engine.sampling import NO_TOKEN, RowState, uniform
from tirazh.model.kernels.build import load_kernel
from tirazh.model.requests import SamplingParams

quick = settings(max_examples=60, deadline=None)
GRID = 500


@pytest.fixture(autouse=True, scope="module", params=["compiled", "torch"])
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test holds for both implementations."""
    if request.param == "compiled" and load_kernel("sampling") is None:
        pytest.skip("no C compiler on this machine: torch samples")
    with pytest.MonkeyPatch.context() as patches:
        if request.param != "compiled":
            patches.setattr(sampling, "load_kernel", lambda _: None)
        yield request.param


def row(seed: int = 0, *, token_ids: Sequence[int] = (), num_new: int = 0, **params: Any) -> RowState:
    sampling_params = SamplingParams(**params)
    edits = LogitEdits(sampling_params, token_ids) if sampling_params.edits_logits else None
    return RowState(sampling_params, seed, edits, num_new)


def sample(logits_RV: Tensor, rows: Sequence[RowState], num_tokens: int) -> list[int | None]:
    """Return the sampled tokens; None for `NO_TOKEN`."""
    tokens = sampling.sample(logits_RV, rows, num_tokens).tokens.tolist()
    return [None if token == NO_TOKEN else token for token in tokens]


def choose(logits_V: Tensor, state: RowState, num_tokens: int | None = None) -> int | None:
    return sample(logits_V[None].clone(), [state], num_tokens or len(logits_V))[0]


def random_logits(size: int, seed: int, spread: float = 2.0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * spread


def probabilities_by_grid(logits_V: Tensor, **params: Any) -> dict[int, float]:
    """Return how often each token is sampled with evenly spaced random numbers: its probability
    within 1 / GRID."""
    with patch.object(sampling, "uniform", lambda seed, _: (seed + 0.5) / GRID):
        logits_RV = logits_V.expand(GRID, -1).clone()
        sampled = sample(logits_RV, [row(seed, **params) for seed in range(GRID)], len(logits_V))
    return {int(token): count / GRID for token, count in Counter(sampled).items() if token is not None}


def probabilities_by_definition(
    logits_V: Tensor, *, temperature: float, top_k: int, top_p: float, min_p: float = 0.0
) -> dict[int, float]:
    """Apply temperature, then min-p, then top-k, then the smallest set whose share of the remaining mass
    reaches p."""
    scaled = [float(x) / temperature for x in logits_V]
    order = sorted(range(len(scaled)), key=lambda i: -scaled[i])
    order = [i for i in order if math.exp(scaled[i] - scaled[order[0]]) >= min_p]
    if top_k:
        order = order[:top_k]
    mass = {i: math.exp(scaled[i] - max(scaled)) for i in order}
    if 0 < top_p < 1:
        reached, total = 0.0, sum(mass.values())
        for count, i in enumerate(order, start=1):
            reached += mass[i]
            if reached >= top_p * total:
                order = order[:count]
                break
    total = sum(mass[i] for i in order)
    return {i: mass[i] / total for i in order}


# Order and meaning


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(1, 40),
    seed=st.integers(0, 999),
    temperature=st.sampled_from([0.3, 0.9, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 3, 10, 100]),
    top_p=st.sampled_from([0, 0.01, 0.4, 0.8, 0.95, 1]),
    min_p=st.sampled_from([0, 0, 0.05, 0.3, 1]),
)
def test_temperature_applies_first_then_min_p_then_top_k_then_top_p(
    size: int, seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits_V = random_logits(size, seed)
    params = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    sampled, expected = probabilities_by_grid(logits_V, **params), probabilities_by_definition(logits_V, **params)
    assert set(sampled) <= set(expected)
    for token, probability in expected.items():
        assert sampled.get(token, 0) == pytest.approx(probability, abs=1.5 / GRID)


def test_temperature_comes_before_the_nucleus() -> None:
    """At temperature 1 the first token alone has 0.6 of the mass; at 10 all three are needed for
    0.6."""
    logits_V = torch.tensor([0.6, 0.3, 0.1]).log()
    assert set(probabilities_by_grid(logits_V, temperature=1, top_p=0.55)) == {0}
    assert set(probabilities_by_grid(logits_V, temperature=10, top_p=0.8)) == {0, 1, 2}


def test_top_k_comes_before_the_nucleus() -> None:
    """Of all five tokens 0.4 + 0.2 are needed to reach 0.55; of the two likeliest the first has 2/3
    already."""
    logits_V = torch.tensor([0.4, 0.2, 0.15, 0.15, 0.1]).log()
    assert set(probabilities_by_grid(logits_V, top_p=0.55)) == {0, 1}
    assert set(probabilities_by_grid(logits_V, top_p=0.55, top_k=2)) == {0}


@pytest.mark.parametrize(
    ("top_p", "nucleus"),
    [(0.1, {0}), (0.49, {0}), (0.5, {0}), (0.51, {0, 1}), (0.75, {0, 1}), (0.76, {0, 1, 2}), (0.99, {0, 1, 2, 3})],
)
def test_the_nucleus_is_the_smallest_set_that_reaches_p(top_p: float, nucleus: set[int]) -> None:
    weights = torch.tensor([0.5, 0.25, 0.15, 0.1]) * torch.tensor([1.0001, 1.0001, 1, 1])  # rounding aside
    assert set(probabilities_by_grid(weights.log(), top_p=top_p)) == nucleus


@pytest.mark.parametrize("off", [{"top_p": 0}, {"top_p": 1}, {"top_k": 0}], ids=str)
def test_limits_of_zero_and_a_nucleus_of_one_are_off(off: dict[str, float]) -> None:
    assert len(probabilities_by_grid(torch.zeros(20), **off)) == 20


@pytest.mark.parametrize("top_p", [0.5, 0.999])
def test_a_nucleus_larger_than_a_thousand_tokens_is_found_too(top_p: float) -> None:
    logits_V = random_logits(3000, 0, spread=0.01)
    sampled = probabilities_by_grid(logits_V, top_p=top_p)
    expected = probabilities_by_definition(logits_V, temperature=1, top_k=0, top_p=top_p)
    assert set(sampled) <= set(expected)
    less_likely = list(expected)[1024:]
    assert len(less_likely) > 300
    share = sum(sampled.get(token, 0) for token in less_likely)
    assert share == pytest.approx(sum(expected[token] for token in less_likely), abs=0.03)


@quick
@given(
    st.integers(0, 999),
    st.sampled_from([30, 511, 512, 513, 3000, 50_264]),
    st.sampled_from([0.01, 1.0, 4.0]),
    st.sampled_from([0, 1, 7, 100, 2000]),
    st.sampled_from([0.0, 0.3, 0.9, 0.999]),
    st.sampled_from([0.0, 0.0, 0.01, 0.2, 1.0]),
)
def test_both_implementations_sample_the_same_token(
    seed: int, size: int, spread: float, top_k: int, top_p: float, min_p: float
) -> None:
    """The implementations may differ if a random number is within rounding of the boundary between two
    tokens. That is not the case for any of these examples."""
    rows = [row(seed + i, temperature=0.8, top_k=top_k, top_p=top_p, min_p=min_p) for i in range(4)]
    logits_RV = torch.stack([random_logits(size, seed + i, spread) for i in range(4)])
    expected = sampling.choose_together(logits_RV, rows)
    assert sampling.sample(logits_RV, rows, size).tokens.tolist() == expected.tolist()


def test_of_equally_likely_tokens_the_first_are_kept() -> None:
    assert set(probabilities_by_grid(torch.zeros(2000), top_k=3)) == {0, 1, 2}
    assert set(probabilities_by_grid(torch.zeros(100), top_p=0.099)) == set(range(10))


@quick
@given(st.integers(0, 999), st.floats(1e-6, 1), st.integers(0, 5), st.floats(0.01, 5))
def test_at_least_one_token_is_left(seed: int, top_p: float, top_k: int, temperature: float) -> None:
    logits_V = random_logits(30, seed, spread=30)
    token = choose(logits_V, row(seed, top_p=top_p, top_k=top_k, temperature=temperature))
    assert token is not None
    assert 0 <= token < 30


@quick
@given(st.integers(0, 999), st.integers(0, 1 << 63), st.sampled_from([0, 1, 5]), st.sampled_from([0, 0.5, 1]))
def test_temperature_zero_takes_the_likeliest_token_whatever_else_is_set(
    seed: int, row_seed: int, top_k: int, top_p: float
) -> None:
    logits_V = random_logits(30, seed)
    assert choose(logits_V, row(row_seed, temperature=0, top_k=top_k, top_p=top_p)) == int(logits_V.argmax())


@quick
@given(st.integers(0, 999))
def test_a_tiny_temperature_and_top_k_of_one_take_the_likeliest_token(seed: int) -> None:
    logits_V = random_logits(30, seed)
    assert choose(logits_V, row(seed, temperature=1e-4)) == int(logits_V.argmax())
    assert choose(logits_V, row(seed, top_k=1)) == int(logits_V.argmax())


# Probabilities


@pytest.mark.parametrize("params", [{}, {"temperature": 0.7, "top_k": 8, "top_p": 0.9}], ids=["plain", "limited"])
def test_twenty_thousand_samples_follow_the_probabilities(params: dict[str, Any]) -> None:
    logits_V, num_samples = random_logits(12, 3, spread=1), 20_000
    expected = probabilities_by_definition(logits_V, **{"temperature": 1.0, "top_k": 0, "top_p": 1.0, **params})
    logits_RV = logits_V.expand(num_samples, -1).clone()
    # Seeds and counters both vary, as rows and their tokens do.
    rows = [row(seed // 10, num_new=seed % 10, **params) for seed in range(num_samples)]
    sampled = Counter(sample(logits_RV, rows, 12))
    assert set(sampled) == set(expected)
    chi_square = sum((sampled[i] - num_samples * p) ** 2 / (num_samples * p) for i, p in expected.items())
    assert chi_square < len(expected) + 5 * math.sqrt(2 * len(expected))


# Penalties


@quick
@given(
    st.integers(0, 999),
    st.lists(st.integers(0, 9), min_size=1, max_size=30),
    st.sampled_from([0.5, 1.0, 1.2, 3.0]),
    st.integers(0, 4),
)
def test_penalties_are_those_of_transformers(seed: int, token_ids: list[int], penalty: float, ngram: int) -> None:
    logits_RV = random_logits(10, seed)[None]
    ids = torch.tensor([token_ids])
    expected = logits_RV.clone()
    if penalty != 1:
        expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, expected)
    if ngram:
        expected = NoRepeatNGramLogitsProcessor(ngram)(ids, expected)
    state = row(token_ids=token_ids, temperature=0, repetition_penalty=penalty, no_repeat_ngram_size=ngram)
    result = logits_RV.clone()
    edits = sampling.find_edits([state], result.device)
    if edits is not None:
        edits.apply(result)
    assert torch.equal(result, expected)
    token = sample(logits_RV, [state], 10)[0]
    assert token == (int(expected.argmax()) if expected.max().isfinite() else None)


def test_penalties_come_before_top_k() -> None:
    logits_V = torch.tensor([3.0, 2.0, 1.0])
    said = {"token_ids": [0], "top_k": 1}
    assert choose(logits_V, row(**said)) == 0
    assert choose(logits_V, row(**said, repetition_penalty=2)) == 1
    assert choose(logits_V, row(**said, no_repeat_ngram_size=1)) == 1


@pytest.mark.parametrize(
    ("size", "token_ids", "banned"),
    [
        (3, [1, 2, 3, 1, 2], {3}),
        (2, [5, 6, 5, 7, 5], {6, 7}),
        (1, [4, 4, 8], {4, 8}),
        (3, [1, 2], set()),
        (0, [1, 1], set()),
    ],
)
def test_a_token_that_would_repeat_an_ngram_is_banned(size: int, token_ids: list[int], banned: set[int]) -> None:
    edits = sampling.find_edits([row(token_ids=token_ids, no_repeat_ngram_size=size)], torch.device("cpu"))
    assert (set() if edits is None else set(edits.ids_N.tolist())) == banned


# Log-probabilities


@quick
@given(st.integers(0, 999), st.sampled_from([1, 7, 511, 512, 513, 3000]), st.sampled_from([0, 0.7, 1.0]))
def test_the_logprob_is_that_of_the_untouched_logits(seed: int, size: int, temperature: float) -> None:
    logits_RV = torch.stack([random_logits(size, seed + i, 4.0) for i in range(3)])
    rows = [row(i, token_ids=[0], temperature=temperature, repetition_penalty=1 + i, top_k=i) for i in range(3)]
    sampled = sampling.sample(logits_RV.clone(), rows, size)
    expected = torch.log_softmax(logits_RV.double(), -1).gather(1, sampled.tokens[:, None])[:, 0]
    assert torch.allclose(sampled.logprobs, expected, atol=2e-5, rtol=0)


@quick
@given(st.permutations(range(6)), st.integers(1, 6))
def test_a_logprob_has_the_same_bits_beside_any_neighbours(order: list[int], count: int) -> None:
    logits_RV = torch.stack([random_logits(700, seed) for seed in range(6)])
    rows = [row(seed, token_ids=[3], presence_penalty=seed % 2, temperature=seed % 3) for seed in range(6)]
    alone = [sampling.sample(logits_RV[[i]], [rows[i]], 700).logprobs.item() for i in range(6)]
    chosen = order[:count]
    together = sampling.sample(logits_RV[chosen], [rows[i] for i in chosen], 700).logprobs.tolist()
    assert together == [alone[i] for i in chosen]


# Vocabulary, non-finite logits, neighbours


@quick
@given(st.integers(0, 999), st.sampled_from([0, 1.0]), st.sampled_from([0, 3]), st.sampled_from([0, 0.9]))
def test_padding_of_the_vocabulary_is_never_sampled(seed: int, temperature: float, top_k: int, top_p: float) -> None:
    logits_V = random_logits(40, seed)
    logits_V[30:] = torch.tensor([1e4, torch.inf, torch.nan] * 3 + [5])
    token = choose(logits_V, row(seed, temperature=temperature, top_k=top_k, top_p=top_p), num_tokens=30)
    assert token is not None
    assert token < 30


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf], ids=["NaN", "overflow"])
def test_a_row_with_non_finite_logits_gets_no_token_and_its_neighbours_keep_theirs(
    bad: float, temperature: float
) -> None:
    logits_RV = torch.stack([random_logits(10, seed) for seed in range(3)])
    alone = [choose(logits_V, row(5, temperature=temperature)) for logits_V in logits_RV]
    logits_RV[1, 4] = bad
    assert sample(logits_RV, [row(5, temperature=temperature)] * 3, 10) == [alone[0], None, alone[2]]


@quick
@given(st.permutations(range(6)), st.integers(1, 6))
def test_a_row_gets_the_same_token_beside_any_neighbours(order: list[int], count: int) -> None:
    logits_RV = torch.stack([random_logits(50, seed) for seed in range(6)])
    rows = [
        row(seed * 1_000_003, num_new=seed, token_ids=[seed, 3], top_p=0.9 * (seed % 2), repetition_penalty=1.1)
        for seed in range(6)
    ]
    alone = [choose(logits_V, state) for logits_V, state in zip(logits_RV, rows, strict=True)]
    chosen = order[:count]
    assert sample(logits_RV[chosen], [rows[i] for i in chosen], 50) == [alone[i] for i in chosen]


def test_other_seeds_and_other_steps_sample_other_tokens() -> None:
    logits_V = torch.zeros(1000)
    by_seed = [choose(logits_V, row(seed)) for seed in range(100)]
    by_step = [choose(logits_V, row(7, num_new=step)) for step in range(100)]
    assert min(len(set(by_seed)), len(set(by_step))) > 85
    assert by_seed == [choose(logits_V, row(seed)) for seed in range(100)]


# The generator


@given(st.integers(0, (1 << 64) - 1), st.integers(0, 1 << 40))
def test_uniform_lies_in_nought_to_one_and_repeats(seed: int, counter: int) -> None:
    assert 0 <= uniform(seed, counter) < 1
    assert uniform(seed, counter) == uniform(seed, counter)


@pytest.mark.parametrize("along", ["seeds", "counters"])
def test_uniform_is_well_spread_along_seeds_and_along_counters(along: str) -> None:
    count = 20_000
    values = np.array([uniform(i, 3) if along == "seeds" else uniform(3, i) for i in range(count)])
    assert len(set(values.tolist())) == count
    filled = np.histogram(values, bins=50, range=(0, 1))[0]
    assert ((filled - count / 50) ** 2 / (count / 50)).sum() < 49 + 5 * math.sqrt(98)
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03


# What may be asked for


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("top_k", -1),
        ("top_p", 1.1),
        ("repetition_penalty", 0),
        ("no_repeat_ngram_size", -1),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(RequestError, match=field):
        SamplingParams(**{field: value})
