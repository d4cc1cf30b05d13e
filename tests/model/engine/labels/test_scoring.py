"""Label scores: the sums of the right logits, the same bits in any company."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tirazh.model.engine.labels.scoring import label_logprobs, token_logprobs
from tirazh.model.engine.labels.trie import build_trie


def test_a_label_s_score_is_the_sum_of_its_tokens_log_probabilities() -> None:
    labels = [(1, 2, 3), (1, 0), (4,)]
    trie = build_trie(labels)  # nodes: 1, and its child 2
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    after_prompt, after_1, after_1_2 = logits.log_softmax(-1).tolist()
    assert label_logprobs(logits, trie) == pytest.approx(
        [after_prompt[1] + after_1[2] + after_1_2[3], after_prompt[1] + after_1[0], after_prompt[4]], abs=1e-5
    )


@given(st.integers(1, 9), st.integers(0, 99))
def test_a_prompt_s_scores_have_the_same_bits_beside_any_other_prompts(num_prompts: int, seed: int) -> None:
    trie = build_trie([(1, 2, 3), (1, 0), (4,), (2, 2, 5, 1)])
    num_rows = 1 + len(trie.token_ids)
    logits = torch.randn(num_prompts * num_rows, 700, generator=torch.Generator().manual_seed(seed))
    together = token_logprobs(logits, trie)
    alone = [token_logprobs(part, trie)[0] for part in logits.split(num_rows)]
    assert torch.equal(together, torch.stack(alone))


def test_a_certain_label_scores_0_and_an_impossible_one_minus_infinity() -> None:
    trie = build_trie([(0,), (1,)])
    assert label_logprobs(torch.tensor([[0.0, -torch.inf]]), trie) == [0.0, -torch.inf]


def test_the_end_of_a_label_is_one_more_term() -> None:
    labels, ends = [(1,), (1, 2)], (3, 4)
    trie = build_trie(labels, ends)  # nodes: 1, and its child 2
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    after_prompt, after_1, after_1_2 = logits.softmax(-1).tolist()
    short = after_prompt[1] * (after_1[3] + after_1[4])
    long = after_prompt[1] * after_1[2] * (after_1_2[3] + after_1_2[4])
    assert label_logprobs(logits, trie) == pytest.approx([math.log(short), math.log(long)], abs=1e-5)


def test_the_longer_of_two_labels_wins_where_it_goes_on_and_the_shorter_where_it_ends() -> None:
    trie = build_trie([(1,), (1, 2)], (3,))
    for likely, winner in ((3, 0), (2, 1)):
        logits = torch.zeros(3, 6)
        logits[0, 1] = logits[1, likely] = logits[2, 3] = 9.0
        scores = label_logprobs(logits, trie)
        assert scores.index(max(scores)) == winner


@given(st.integers(1, 9), st.integers(0, 99))
def test_ends_have_the_same_bits_beside_any_other_prompts(num_prompts: int, seed: int) -> None:
    trie = build_trie([(1, 2), (1,), (4, 5)], (3, 7, 8))
    num_rows = 1 + len(trie.token_ids)
    logits = torch.randn(num_prompts * num_rows, 700, generator=torch.Generator().manual_seed(seed))
    alone = [token_logprobs(part, trie)[0] for part in logits.split(num_rows)]
    assert torch.equal(token_logprobs(logits, trie), torch.stack(alone))
