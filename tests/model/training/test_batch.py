"""Microbatches and their loss: weights by role, no loss for padding, and the loss that transformers computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.model.tiny import tiny_model
from tirazh.model.training.batch import Microbatch, TrainedModel, build_microbatch, read_microbatch, total_weight
from tirazh.model.training.config import ROLE_COMPLETION, ROLE_PROMPT, ROLE_TEXT
from tirazh.model.training.sequence_store import SequenceStore, StoreWriter

WEIGHTS = (0.0, 1.0, 2.0)
# Some have one input, some fill windows of 16 tokens exactly, and some have several windows.
LENGTHS = (2, 70, 3, 1, 33, 17, 5, 5, 130, 200, 16, 18)


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


def random_texts(lengths: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [sequence(rng.integers(0, 300, n).tolist(), rng.integers(0, 3, n).tolist()) for n in lengths]


def loss_of(model: TrainedModel, batch: Microbatch) -> torch.Tensor:
    loss: torch.Tensor = model(batch.input_ids, batch.targets, batch.weights, layout=batch.layout)
    return loss


@pytest.mark.parametrize("mode", ["none", "alternating", "all"])
def test_the_loss_of_a_packed_document_is_that_of_the_document_alone(mode: str) -> None:
    """Of each document in turn, with the weights of all others set to 0; "none" has dense layers only."""
    model = TrainedModel(tiny_model(sparse_mode=mode))
    texts = [text for text in random_texts(LENGTHS) if len(text[0]) > 1]
    packed = build_microbatch(texts, WEIGHTS, packed=True)
    assert packed.input_ids.shape == (1, sum(LENGTHS) - len(LENGTHS))
    first = 0
    for text in texts:
        alone = build_microbatch([text], WEIGHTS)
        weights = torch.zeros_like(packed.weights)
        weights[:, first : first + alone.weights.shape[1]] = alone.weights
        first += alone.weights.shape[1]
        total = float(alone.weights.sum()) or 1.0
        expected = loss_of(model, alone).item() / total
        found = model(packed.input_ids, packed.targets, weights, layout=packed.layout).item() / total
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("mode", ["none", "alternating", "all"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradients_of_packed_documents_are_the_sum_of_each_ones(mode: str, checkpointing: bool) -> None:
    texts = random_texts(LENGTHS)
    model = TrainedModel(tiny_model(sparse_mode=mode).train(), activation_checkpointing=checkpointing)
    packed = build_microbatch(texts, WEIGHTS, packed=True)
    (loss_of(model, packed) / packed.weights.sum()).backward()
    found = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    for text in texts:
        (loss_of(model, build_microbatch([text], WEIGHTS)) / packed.weights.sum()).backward()
    for parameter, gradient in zip(model.parameters(), found, strict=True):
        assert parameter.grad is not None
        assert gradient is not None
        assert (parameter.grad - gradient).abs().max() < 1e-6


def test_a_packed_row_has_the_tokens_of_its_documents_and_no_padding() -> None:
    texts = [sequence([7, 8, 9], [ROLE_TEXT] * 3), sequence([4], [ROLE_TEXT]), sequence([1, 2], [ROLE_COMPLETION] * 2)]
    batch = build_microbatch(texts, WEIGHTS, packed=True)
    assert batch.input_ids.tolist() == [[7, 8, 1]]
    assert batch.targets.tolist() == [[8, 9, 2]]
    assert batch.weights.tolist() == [[1.0, 1.0, 2.0]]
    assert batch.layout is not None
    assert batch.layout.positions.tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("texts", [[], [sequence([4], [ROLE_TEXT])]])
def test_a_packed_microbatch_without_targets_is_an_empty_one(texts: list[tuple[np.ndarray, np.ndarray]]) -> None:
    batch = build_microbatch(texts, WEIGHTS, packed=True)
    assert (batch.weights.tolist(), batch.layout) == ([[0.0]], None)


@pytest.mark.parametrize("packed", [False, True])
def test_the_weight_of_sequences_is_that_of_their_microbatch(packed: bool, tmp_path: Path) -> None:
    """A packed sequence of two texts has a target less than a joined one."""
    with StoreWriter(tmp_path) as writer:
        for tokens, roles in random_texts((9, 5, 7)):
            writer.add(tokens.tolist(), roles.tolist())
        writer.finish([[(0, 9), (9, 14)], [(14, 21)]], packed=packed)
    store = SequenceStore(tmp_path)
    batch = read_microbatch(store, [0, 1], WEIGHTS)
    assert total_weight(store, [0, 1], WEIGHTS) == float(batch.weights.sum())
    assert store.num_targets([0, 1]).tolist() == ([12, 6] if packed else [13, 6])
