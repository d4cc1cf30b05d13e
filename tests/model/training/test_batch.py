"""Microbatches and their loss: weights by role, no loss for padding, and the loss that transformers computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.model.tiny import tiny_model
from tirazh.model.training.batch import TrainedModel, build_microbatch
from tirazh.model.training.config import ROLE_COMPLETION, ROLE_PROMPT, ROLE_TEXT

WEIGHTS = (0.0, 1.0, 2.0)


def sequence(tokens: list[int], roles: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(tokens, dtype=np.int32), np.array(roles, dtype=np.uint8)


def test_a_target_is_the_next_token_and_has_the_weight_of_its_role() -> None:
    batch = build_microbatch(
        [
            sequence([7, 8, 9, 5], [ROLE_PROMPT, ROLE_PROMPT, ROLE_COMPLETION, ROLE_TEXT]),
            sequence([1, 2], [ROLE_TEXT] * 2),
        ],
        WEIGHTS,
    )
    assert batch.input_ids.tolist() == [[7, 8, 9], [1, 0, 0]]
    assert batch.targets.tolist() == [[8, 9, 5], [2, 0, 0]]
    assert batch.weights.tolist() == [[0.0, 2.0, 1.0], [1.0, 0.0, 0.0]]


def test_the_loss_of_plain_text_equals_transformers() -> None:
    model = tiny_model()
    tokens = torch.randint(0, 300, (1, 30))
    batch = build_microbatch([sequence(tokens[0].tolist(), [ROLE_TEXT] * 30)], WEIGHTS)
    ours = TrainedModel(model)(batch.input_ids, batch.targets, batch.weights) / 29
    theirs = model(tokens, labels=tokens).loss
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)


def test_sequences_in_a_batch_do_not_affect_each_other() -> None:
    model = TrainedModel(tiny_model())
    pair = [sequence(list(range(40)), [ROLE_TEXT] * 40), sequence([3, 4, 5], [ROLE_TEXT] * 3)]
    alone = [build_microbatch([one], WEIGHTS) for one in pair]
    together = build_microbatch(pair, WEIGHTS)
    losses = [model(batch.input_ids, batch.targets, batch.weights).item() for batch in (*alone, together)]
    assert losses[2] == pytest.approx(losses[0] + losses[1], abs=1e-3)


def test_an_empty_microbatch_has_zero_loss_and_zero_gradients() -> None:
    model = TrainedModel(tiny_model().train())
    batch = build_microbatch([], WEIGHTS)
    loss = model(batch.input_ids, batch.targets, batch.weights)
    loss.backward()
    assert loss.item() == 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_activation_checkpointing_keeps_the_gradients() -> None:
    batch = build_microbatch([sequence(list(range(50)), [ROLE_TEXT] * 50)], WEIGHTS)
    gradients = []
    for is_on in (False, True):
        model = TrainedModel(tiny_model().train(), activation_checkpointing=is_on)
        model(batch.input_ids, batch.targets, batch.weights).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


def test_logits_at_some_positions_equal_those_of_the_full_forward() -> None:
    model = tiny_model()
    tokens = torch.randint(0, 300, (2, 20))
    at = torch.tensor([[0, 1, 1], [3, 0, 19]])
    whole = model(tokens).logits
    assert torch.allclose(TrainedModel(model)(tokens, at=at), whole[at[0], at[1]], atol=1e-5)
