"""Logits of many rows are computed a slice at a time, with the same bits as all at once."""

from __future__ import annotations

import pytest
import torch

from tirazh.model.engine.labels.scoring import sliced_token_logprobs, token_logprobs
from tirazh.model.engine.labels.trie import build_trie
from tirazh.model.engine.sliced_logits import SlicedLogits, rows_at_once

LABELS = [(1, 2), (1, 2, 3), (4,), (5, 6, 7), (5, 6, 8)]


@pytest.mark.parametrize("ends", [(), (9, 3, 11)], ids=["without ends", "with ends"])
@pytest.mark.parametrize("at_once", [1, 5, 32, 1000])
def test_sliced_terms_have_the_bits_of_those_computed_at_once(ends: tuple[int, ...], at_once: int) -> None:
    trie = build_trie(LABELS, ends)
    num_rows, num_prompts = 1 + trie.num_nodes, 4
    logits = torch.randn(num_prompts * num_rows, 40, generator=torch.Generator().manual_seed(0))
    read: list[int] = []

    def compute(first: int, end: int) -> torch.Tensor:
        read.append(end - first)
        return logits[first:end]

    sliced = SlicedLogits(len(logits), at_once, compute)
    firsts = list(range(0, len(logits), num_rows))
    assert torch.equal(sliced_token_logprobs(sliced, firsts, trie, 30), token_logprobs(logits[:, :30], trie))
    assert max(read) <= at_once
    assert sum(read) == len(logits)


def test_only_the_rows_of_the_prompts_that_are_read_count() -> None:
    trie = build_trie(LABELS)
    num_rows = 1 + trie.num_nodes
    logits = torch.randn(2 + 2 * num_rows, 40, generator=torch.Generator().manual_seed(1))
    sliced = SlicedLogits(len(logits), 3, lambda first, end: logits[first:end])
    terms = sliced_token_logprobs(sliced, [1, 2 + num_rows], trie, 40)
    right = [token_logprobs(logits[first : first + num_rows], trie)[0] for first in (1, 2 + num_rows)]
    assert torch.equal(terms, torch.stack(right))


def test_a_slice_is_bounded_whatever_the_vocabulary() -> None:
    for vocabulary in (300, 50_264, 262_144):
        assert rows_at_once(vocabulary, 16) % 16 == 0
        assert 16 <= rows_at_once(vocabulary, 16) <= max(16, (128 << 20) // (4 * vocabulary))
