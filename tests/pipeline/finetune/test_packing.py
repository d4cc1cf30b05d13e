"""Packing documents into sequences: a cut loses no token, no target is repeated, and no sequence is too long."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.pipeline.finetune.packing import PACKERS, Span, pack_single, pack_stream, pack_whole

documents = st.lists(st.integers(1, 30), min_size=1, max_size=25)
seq_lengths = st.integers(1, 12)


def targets_of(name: str, sequence: list[Span]) -> list[int]:
    """Return the tokens that a sequence predicts: all but the first of each text in it."""
    if name == "whole":
        return [token for start, stop in sequence for token in range(start + 1, stop)]
    return tokens_of(sequence)[1:]


def tokens_of(sequence: list[Span]) -> list[int]:
    return [token for start, stop in sequence for token in range(start, stop)]


@st.composite
def orders(draw: st.DrawFn, lengths: list[int]) -> list[int]:
    return draw(st.permutations(range(len(lengths))))


@pytest.mark.parametrize("name", PACKERS)
@given(data=st.data(), lengths=documents, seq_length=seq_lengths)
def test_every_token_is_in_a_sequence_and_none_is_predicted_twice(
    name: str, data: st.DataObject, lengths: list[int], seq_length: int
) -> None:
    sequences = PACKERS[name](lengths, data.draw(orders(lengths)), seq_length)
    targets = Counter(token for sequence in sequences for token in targets_of(name, sequence))
    assert set(targets.values()) <= {1}
    if sum(lengths) > 1 or name != "stream":
        assert {token for sequence in sequences for token in tokens_of(sequence)} == set(range(sum(lengths)))
    assert all(len(targets_of(name, sequence)) <= seq_length for sequence in sequences)


@given(data=st.data(), lengths=documents, seq_length=seq_lengths)
def test_a_stream_predicts_all_tokens_but_its_first(data: st.DataObject, lengths: list[int], seq_length: int) -> None:
    order = data.draw(orders(lengths))
    sequences = pack_stream(lengths, order, seq_length)
    starts = [0, *accumulate(lengths)]
    joined = [token for document in order for token in range(starts[document], starts[document + 1])]
    assert [token for sequence in sequences for token in tokens_of(sequence)[1:]] == joined[1:]
    assert all(len(tokens_of(sequence)) - 1 == seq_length for sequence in sequences[:-1])


@given(data=st.data(), lengths=documents, seq_length=seq_lengths)
def test_packing_whole_cuts_only_documents_longer_than_a_sequence(
    data: st.DataObject, lengths: list[int], seq_length: int
) -> None:
    sequences = pack_whole(lengths, data.draw(orders(lengths)), seq_length)
    starts = [0, *accumulate(lengths)]
    spans = {span for sequence in sequences for span in sequence}
    for start, length in zip(starts, lengths, strict=False):
        assert length > seq_length + 1 or (start, start + length) in spans


def test_packing_single_gives_every_document_its_own_sequence() -> None:
    assert pack_single([3, 2], [1, 0], 8) == [[(3, 5)], [(0, 3)]]


def test_a_document_continues_with_the_token_it_was_cut_at() -> None:
    assert pack_single([9], [0], 4) == [[(0, 5)], [(4, 9)]]
    assert pack_stream([9], [0], 4) == [[(0, 5)], [(4, 9)]]


def test_packing_whole_fills_a_sequence_with_as_many_documents_as_fit() -> None:
    """Documents of 2, 1, 3 and 1 inputs in sequences of 4."""
    assert pack_whole([3, 2, 4, 2], [0, 1, 2, 3], 4) == [[(0, 3), (3, 5)], [(5, 9), (9, 11)]]


@given(data=st.data(), lengths=documents, seq_length=seq_lengths)
def test_packing_whole_predicts_what_single_predicts(data: st.DataObject, lengths: list[int], seq_length: int) -> None:
    order = data.draw(orders(lengths))
    whole, single = (
        [token for sequence in PACKERS[name](lengths, order, seq_length) for token in targets_of(name, sequence)]
        for name in ("whole", "single")
    )
    assert whole == single
