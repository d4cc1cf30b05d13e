"""Bias, penalties and bans against plain definitions that read the whole sequence each time."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tirazh.model.engine import sampling
from tirazh.model.engine.logit_edits import LogitEdits, TokenCounts
from tirazh.model.engine.sampling import RowState
from tirazh.model.requests import SamplingParams

SIZE = 12
token = st.integers(0, SIZE - 1)
ids = st.lists(token, max_size=30)
penalty = st.sampled_from([0.0, 0.0, 0.5, -1.25, 2.0])


@st.composite
def settings_of_a_row(draw: st.DrawFn) -> SamplingParams:
    biased = draw(st.dictionaries(token, st.floats(-100, 100, width=32), max_size=4))
    return SamplingParams(
        max_new_tokens=40,
        min_new_tokens=draw(st.sampled_from([0, 0, 5, 40])),
        temperature=draw(st.sampled_from([0.0, 0.7, 1.0])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 0.5, 1.3])),
        frequency_penalty=draw(penalty),
        presence_penalty=draw(penalty),
        no_repeat_ngram_size=draw(st.integers(0, 4)),
        logit_bias=tuple(biased.items()),
        bad_words=tuple(draw(st.lists(st.lists(token, min_size=1, max_size=4).map(tuple), max_size=4))),
    )


def edited_by_definition(
    logits: NDArray[np.float32], params: SamplingParams, prompt: list[int], new: list[int], ending: list[int]
) -> NDArray[np.float32]:
    """The order and the formulas of `SamplingParams`, in float32."""
    out = logits.copy()
    for biased, value in params.logit_bias:
        out[biased] += np.float32(value)
    for seen in {*prompt, *new} if params.repetition_penalty != 1 else ():
        factor = np.float32(params.repetition_penalty)
        out[seen] = out[seen] / factor if out[seen] > 0 else out[seen] * factor
    for seen, count in Counter(new).items():
        out[seen] -= np.float32(params.frequency_penalty * count + params.presence_penalty)
    whole, size = prompt + new, params.no_repeat_ngram_size
    for end in range(size, len(whole) + 1) if size else ():
        if whole[end - size : end - 1] == whole[len(whole) - size + 1 :]:
            out[whole[end - 1]] = -np.inf
    for word in params.bad_words:
        if len(new) >= len(word) - 1 and tuple(new[len(new) - len(word) + 1 :]) == word[:-1]:
            out[word[-1]] = -np.inf
    if len(new) < params.min_new_tokens:
        out[ending] = -np.inf
    return out


@settings(max_examples=300, deadline=None)
@given(settings_of_a_row(), ids, ids, st.lists(token, max_size=2), st.integers(0, 999))
def test_edits_are_those_of_the_definitions(
    params: SamplingParams, prompt: list[int], new: list[int], ending: list[int], seed: int
) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, SIZE).astype(np.float32)
    expected = edited_by_definition(logits, params, prompt, new, ending)
    edits = LogitEdits(params, prompt, ending)
    for each in new:
        edits.append(each)
    logits_RV = torch.from_numpy(logits)[None].clone()
    sampled = sampling.sample(logits_RV, [RowState(params, seed, edits, len(new))], SIZE)
    np.testing.assert_allclose(logits_RV[0].numpy(), expected, rtol=1e-6, atol=1e-5)
    if np.isfinite(expected.max()):
        chosen = int(sampled.tokens[0])
        wide = logits.astype(np.float64)
        assert abs(float(sampled.logprobs[0]) - (wide[chosen] - np.log(np.exp(wide).sum()))) < 1e-5


@given(ids)
def test_counts_grow_with_the_tokens(tokens: list[int]) -> None:
    counts = TokenCounts()
    for each in [*tokens, *range(200)]:
        counts.add(each)
    expected = Counter([*tokens, *range(200)])
    assert dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True)) == expected


def test_settings_that_are_off_edit_nothing() -> None:
    assert not SamplingParams().edits_logits
    assert not SamplingParams(min_p=0.1, top_k=3, temperature=0).edits_logits


def test_only_settings_that_need_earlier_tokens_make_a_step_wait_for_them() -> None:
    assert not SamplingParams(min_new_tokens=3, logit_bias=((1, 2.0),), bad_words=((4,),)).reads_history
    for history in ({"frequency_penalty": 1}, {"presence_penalty": 1}, {"bad_words": ((4, 5),)}):
        assert SamplingParams(**history).reads_history  # type: ignore[arg-type]
