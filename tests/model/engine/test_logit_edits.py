"""Bias, penalties and bans against plain definitions that read the whole sequence each time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tirazh.model.engine.logit_edits import BIAS, FACTOR, MINUS, LogitEdits, TokenEdits
from tirazh.model.engine.sampling import RowState, find_edits, sample
from tirazh.model.requests import SamplingParams

SIZE = 12
token = st.integers(0, SIZE - 1)
ids = st.lists(token, max_size=30)
OFF: dict[str, Any] = {
    "min_new_tokens": 0,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
}
OFF |= {"no_repeat_ngram_size": 0, "logit_bias": (), "bad_words": ()}
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


@dataclass(frozen=True)
class Row:
    """A sequence: its settings, prompt, completion so far and the tokens that end it."""

    params: SamplingParams
    prompt: list[int]
    new: list[int]
    ending: list[int]

    def edits(self, num_new: int) -> LogitEdits | None:
        """The edits after some tokens of the completion; None where the settings have none."""
        if not self.params.edits_logits:
            return None
        edits = LogitEdits(self.params, self.prompt, self.ending)
        for each in self.new[:num_new]:
            edits.append(each)
        return edits


rows_of_a_step = st.lists(st.builds(Row, settings_of_a_row(), ids, ids, st.lists(token, max_size=2)), max_size=6)


def edited_by_definition(logits_V: Tensor, row: Row, num_new: int) -> Tensor:
    """The order and the formulas of `SamplingParams`, one row and the whole sequence each time."""
    out, params, new = logits_V.clone(), row.params, row.new[:num_new]
    if not params.edits_logits:
        return out
    for biased, value in params.logit_bias:
        out[biased] += value
    seen = sorted({*row.prompt, *new} if params.repetition_penalty != 1 else ())
    out[seen] = torch.where(out[seen] > 0, out[seen] / params.repetition_penalty, out[seen] * params.repetition_penalty)
    for counted, count in Counter(new).items():
        minus = params.frequency_penalty * torch.tensor([float(count)]) + params.presence_penalty
        out[[counted]] -= minus
    whole, size = row.prompt + new, params.no_repeat_ngram_size
    for end in range(size, len(whole) + 1) if size else ():
        if whole[end - size : end - 1] == whole[len(whole) - size + 1 :]:
            out[whole[end - 1]] = -torch.inf
    for word in params.bad_words:
        if len(new) >= len(word) - 1 and tuple(new[len(new) - len(word) + 1 :]) == word[:-1]:
            out[word[-1]] = -torch.inf
    if len(new) < params.min_new_tokens:
        out[row.ending] = -torch.inf
    return out


def random_logits(num_rows: int, seed: int) -> Tensor:
    """Some of them are 0, infinite or NaN; the rows are longer than the vocabulary, as where it is padded."""
    logits_RV = torch.randn(num_rows, SIZE + 3, generator=torch.Generator().manual_seed(seed)) * 3
    logits_RV[torch.rand(logits_RV.shape, generator=torch.Generator().manual_seed(seed)) < 0.05] = -0.0
    if seed % 5 == 0:
        logits_RV[:, seed % SIZE] = (torch.nan, torch.inf, -torch.inf)[seed % 3]
    return logits_RV[:, :SIZE]


def bits(values: Tensor) -> list[list[int]]:
    return values.contiguous().view(torch.int32).tolist()


@settings(max_examples=150, deadline=None)
@given(rows_of_a_step, st.integers(0, 999), st.data())
def test_the_edits_of_all_rows_have_the_bits_of_the_definitions(
    rows: list[Row], seed: int, data: st.DataObject
) -> None:
    logits_RV = random_logits(len(rows), seed)
    before_RV = logits_RV.clone()
    cuts = [data.draw(st.integers(0, len(row.new))) for row in rows]
    states = [RowState(row.params, seed, row.edits(cut), cut) for row, cut in zip(rows, cuts, strict=True)]
    batched = find_edits(states, logits_RV.device)
    if batched is None:
        assert not any(row.params.edits_logits for row in rows)
        return
    untouched_N = batched.apply(logits_RV)
    expected = [edited_by_definition(*each) for each in zip(before_RV, rows, cuts, strict=True)]
    assert bits(logits_RV) == bits(torch.stack(expected))
    batched.undo(logits_RV, untouched_N)
    assert bits(logits_RV) == bits(before_RV)


@settings(max_examples=100, deadline=None)
@given(rows_of_a_step.filter(bool), st.integers(0, 999))
def test_a_row_is_sampled_as_from_its_edited_logits_alone_with_the_logprob_of_the_model_s(
    rows: list[Row], seed: int
) -> None:
    logits_RV = random_logits(len(rows), seed)
    plain = [RowState(replace(row.params, **OFF), seed, None, len(row.new)) for row in rows]
    edited = [edited_by_definition(each, row, len(row.new)) for each, row in zip(logits_RV, rows, strict=True)]
    expected = [sample(each[None].clone(), [row], SIZE).tokens for each, row in zip(edited, plain, strict=True)]
    states = [RowState(row.params, seed, row.edits(len(row.new)), len(row.new)) for row in rows]
    wide_RV = logits_RV.double()
    sampled = sample(logits_RV.clone(), states, SIZE)
    assert sampled.tokens.tolist() == [int(each) for each in expected]
    for index, (chosen, logprob) in enumerate(zip(sampled.tokens.tolist(), sampled.logprobs.tolist(), strict=True)):
        if chosen >= 0 and wide_RV[index].max().isfinite():
            assert abs(logprob - float(wide_RV[index, chosen] - wide_RV[index].logsumexp(0))) < 1e-5


@given(ids)
def test_a_table_grows_with_the_tokens(tokens: list[int]) -> None:
    table = TokenEdits()
    for each in [*tokens, *range(200)]:
        table.set(each, FACTOR, each + 2)
    assert sorted(table.ids.tolist()) == list(range(200))
    assert table.values[FACTOR].tolist() == [each + 2 for each in table.ids.tolist()]
    assert not table.values[[BIAS, MINUS]].any()


def test_a_step_does_not_walk_through_the_sequence() -> None:
    """The n-grams that end with the last tokens are found by these; one token is added to an index, not 10,000."""
    edits = LogitEdits(SamplingParams(no_repeat_ngram_size=3, repetition_penalty=1.2), [1, 2, 3] * 10_000)
    edits.append(1)
    edits.append(2)
    assert edits.banned(2).tolist() == [3]
    assert len(edits.table.ids) == 3


def test_settings_that_are_off_edit_nothing() -> None:
    assert not SamplingParams().edits_logits
    assert not SamplingParams(min_p=0.1, top_k=3, temperature=0).edits_logits


def test_only_settings_that_need_earlier_tokens_make_a_step_wait_for_them() -> None:
    assert not SamplingParams(min_new_tokens=3, logit_bias=((1, 2.0),), bad_words=((4,),)).reads_history
    for history in ({"frequency_penalty": 1}, {"presence_penalty": 1}, {"bad_words": ((4, 5),)}):
        assert SamplingParams(**history).reads_history  # type: ignore[arg-type]
