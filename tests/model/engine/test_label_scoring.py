"""Label scores: the sums of the right logits, the same bits in any company."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tirazh.model.engine.label_scoring import label_logprobs, token_logprobs
from tirazh.model.engine.label_trie import build_trie


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
