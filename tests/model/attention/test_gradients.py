"""The gradients of sparse attention are those of dense attention under the sparse mask."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.model.attention.test_full_sequence import lengths, random_qkv
from tests.model.tiny import sparse_configs, tiny_config, tiny_model
from tirazh.model.attention.block_layout import global_starts
from tirazh.model.attention.full_sequence import window_attention
from tirazh.model.attention.reference import masked_attention, visible_keys
from tirazh.model.config import ModelConfig

SCALE = 0.5
TOLERANCE = 1e-5


def gradients(inputs: list[Tensor], weights: Tensor, config: ModelConfig, *, is_sparse: bool) -> list[Tensor]:
    """Return the gradients of q, k and v for a loss with a different weight for every output element."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    starts = global_starts(config)
    if is_sparse:
        out = window_attention(*leaves, config.sparse_pattern, starts, SCALE)
    else:
        positions = torch.arange(inputs[0].shape[2])[None]
        out = masked_attention(
            *leaves, visible_keys(config.sparse_pattern, torch.tensor(starts), positions, positions), SCALE
        )
    return list(torch.autograd.grad((out * weights).sum(), leaves))


@settings(max_examples=40)
@given(sparse_configs(), st.data(), st.integers(0, 99))
def test_gradients_are_the_references(config: ModelConfig, data: st.DataObject, seed: int) -> None:
    length = data.draw(lengths(config))
    inputs = random_qkv(config.num_attention_heads, length, seed=seed)
    weights = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(seed + 1))
    fast, slow = (gradients(inputs, weights, config, is_sparse=is_sparse) for is_sparse in (True, False))
    for name, a, b in zip("qkv", fast, slow, strict=True):
        assert (a - b).abs().max() < TOLERANCE, f"gradient of {name}"


def test_gradients_at_the_published_pattern_and_length() -> None:
    """16 windows of 128 tokens, 8 patterns: the layout of ruGPT-3 XL, with fewer channels."""
    config = ModelConfig(
        num_layers=1, hidden_size=64, num_attention_heads=8, vocab_size=8, sparse_mode="all", layout_groups=1
    )
    inputs = random_qkv(8, 2048, batch=1, dim=8)
    weights = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1))
    fast, slow = (gradients(inputs, weights, config, is_sparse=is_sparse) for is_sparse in (True, False))
    for a, b in zip(fast, slow, strict=True):
        assert (a - b).abs().max() < TOLERANCE


def test_padding_on_the_right_gets_no_gradient() -> None:
    config = tiny_config()
    inputs = random_qkv(8, 50)
    weights = torch.ones_like(inputs[0])
    weights[:, :, 37:] = 0
    for gradient in gradients(inputs, weights, config, is_sparse=True):
        assert not gradient[:, :, 37:].any()
        assert gradient[:, :, :37].any()


def test_a_whole_models_gradients_are_those_of_the_masked_path() -> None:
    """All weights of a model of sparse and dense layers: a padding column makes it take the masked path."""
    model = tiny_model().train()
    tokens = torch.randint(0, 300, (2, 45), generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(tokens, (0, 1))
    mask = torch.ones_like(padded)
    mask[:, -1] = 0
    found = []
    for ids, attention_mask in ((tokens, None), (padded, mask)):
        model.zero_grad()
        logits = model(ids, attention_mask=attention_mask).logits[:, :44]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == dict(model.named_parameters()).keys()
    for name, gradient in found[0].items():
        largest = max(1.0, float(gradient.abs().max()))
        assert (gradient - found[1][name]).abs().max() < TOLERANCE * largest, name
