"""Labels are scored behind each prompt in one forward pass, with the likelihoods of each label's own sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.model.tiny import full_logits, random_prompts, tiny_model
from tirazh.model.engine.labels.trie import build_trie
from tirazh.model.training.batch import TrainedModel
from tirazh.model.training.evaluation import label_scores

# The first is a beginning of the second, and two share their first two tokens.
LABELS = ((6, 7), (6, 7, 8), (6, 9, 10, 11), (6, 9, 12), (13,), (14, 15), (16,), (17, 18, 19, 20, 21), (22, 23), (24,))
# Prompts that end before, at and behind the end of a window of 16 tokens, so that labels reach into the next.
PROMPTS = (1, 3, 13, 14, 15, 16, 17, 31, 32, 60)


class CountingModel(nn.Module):
    """Counts the tokens of all forward passes."""

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.model, self.tokens = model, 0

    def forward(self, input_ids: Tensor, **kwargs: Any) -> Tensor:
        self.tokens += input_ids.numel()
        logits: Tensor = self.model(input_ids, **kwargs)
        return logits


def scores_one_by_one(model: nn.Module, prompt: Sequence[int], ends: Sequence[int]) -> list[float]:
    """Return the log-likelihood of every label by a forward pass over its whole sequence."""
    scores = []
    for label in LABELS:
        logprobs = full_logits(model, [*prompt, *label]).double().log_softmax(dim=-1)
        own = [logprobs[len(prompt) - 1 + place, token] for place, token in enumerate(label)]
        end = torch.logsumexp(logprobs[-1, list(ends)], dim=0) if ends else torch.zeros(())
        scores.append(float(sum(own, end)))
    return scores


@pytest.mark.parametrize("mode", ["none", "alternating", "all"])
@pytest.mark.parametrize("ends", [(), (2, 40)])
def test_a_label_has_the_likelihood_of_its_own_sequence(mode: str, ends: tuple[int, ...]) -> None:
    model = tiny_model(sparse_mode=mode)
    prompts = [list(prompt) for prompt in random_prompts(PROMPTS)]
    with torch.no_grad():
        found = label_scores(TrainedModel(model), prompts, build_trie(LABELS, ends), "cpu")
    for prompt, scores in zip(prompts, found, strict=True):
        assert scores == pytest.approx(scores_one_by_one(model, prompt, ends), abs=1e-5)


def test_labels_of_one_token_need_the_prompt_alone() -> None:
    model = tiny_model()
    prompts = [list(prompt) for prompt in random_prompts((5, 20))]
    with torch.no_grad():
        found = label_scores(TrainedModel(model), prompts, build_trie(((3,), (4,))), "cpu")
    for prompt, scores in zip(prompts, found, strict=True):
        logprobs = full_logits(model, prompt)[-1].double().log_softmax(dim=-1)
        assert scores == pytest.approx(logprobs[[3, 4]].tolist(), abs=1e-5)


def test_ten_labels_take_less_than_a_fifth_of_the_tokens_of_ten_sequences() -> None:
    prompts = [list(prompt) for prompt in random_prompts((100, 90))]
    counting = CountingModel(TrainedModel(tiny_model()))
    with torch.no_grad():
        label_scores(counting, prompts, build_trie(LABELS), "cpu")
    assert counting.tokens < sum(len(prompt) + len(label) for prompt in prompts for label in LABELS) / 5
