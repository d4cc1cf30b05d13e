"""Attention over whole sequences: the rule on positions, the block layout and the fast implementation agree."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.model.tiny import sparse_configs, tiny_config
from tirazh.model.attention.block_layout import build_layout, global_starts
from tirazh.model.attention.full_sequence import gather_global, window_attention
from tirazh.model.attention.reference import expand_layout, masked_attention, visible_keys
from tirazh.model.config import ModelConfig

SCALE = 0.5
quick = settings(max_examples=40, deadline=None)


def rule_mask(config: ModelConfig, num_tokens: int) -> Tensor:
    """Bool [H, T, T] by the rule on positions."""
    positions = torch.arange(num_tokens)[None]
    return visible_keys(config.sparse_pattern, torch.tensor(global_starts(config)), positions, positions)[0]


def layout_mask(config: ModelConfig, num_tokens: int) -> Tensor:
    """Bool [H, T, T] by the blocks of the layout."""
    layout_HMM = torch.from_numpy(build_layout(config, num_tokens))
    return expand_layout(layout_HMM, config.sparse_pattern.block_size, num_tokens)


def random_qkv(heads: int, length: int, *, batch: int = 2, dim: int = 4, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, heads, length, dim, generator=generator) for _ in range(3)]


@st.composite
def lengths(draw: st.DrawFn, config: ModelConfig) -> int:
    """Any length, and often one near a window's end."""
    window, most = config.sparse_pattern.window_size, config.max_position_embeddings
    near = [1, *(k * window + d for k in (1, 2) for d in (-1, 0, 1))]
    return draw(st.sampled_from([n for n in near if 1 <= n <= most]) | st.integers(1, most))


@quick
@given(sparse_configs(), st.data())
def test_the_rule_on_positions_is_the_layout_token_by_token(config: ModelConfig, data: st.DataObject) -> None:
    num_tokens = data.draw(lengths(config))
    assert torch.equal(rule_mask(config, num_tokens), layout_mask(config, num_tokens))


def test_the_rule_takes_each_row_of_a_batch_by_its_own_positions() -> None:
    config = tiny_config()
    starts = torch.tensor(global_starts(config))
    whole = rule_mask(config, 64)
    query, key = torch.tensor([[20, 33], [5, 60]]), torch.tensor([[0, 7, 19, 32], [3, 6, 47, 61]])
    rule = visible_keys(config.sparse_pattern, starts, query, key)
    for row in range(2):
        assert torch.equal(rule[row], whole[:, query[row]][:, :, key[row]])


def test_a_block_layout_grows_to_tokens_and_stays_causal_inside_a_block() -> None:
    mask_HTT = expand_layout(torch.tensor([[[True, False], [False, True]]]), 2, 3)
    assert mask_HTT.int().tolist() == [[[1, 0, 0], [1, 1, 0], [0, 0, 1]]]


def test_the_reference_is_softmax_over_the_visible_keys_alone() -> None:
    q, k, v = random_qkv(1, 3, batch=1)
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1]], dtype=torch.bool)
    out = masked_attention(q, k, v, mask, SCALE)[0, 0]
    for t, seen in enumerate([[0], [0, 1], [1, 2]]):
        weights = [math.exp(SCALE * float(q[0, 0, t] @ k[0, 0, s])) for s in seen]
        expected = sum(w / sum(weights) * v[0, 0, s] for w, s in zip(weights, seen, strict=True))
        assert torch.allclose(out[t], torch.as_tensor(expected), atol=1e-6)


@quick
@given(sparse_configs(), st.data())
def test_attention_by_windows_is_the_masked_reference(config: ModelConfig, data: st.DataObject) -> None:
    length = data.draw(lengths(config))
    q, k, v = random_qkv(config.num_attention_heads, length, seed=data.draw(st.integers(0, 99)))
    starts = global_starts(config)
    expected = masked_attention(q, k, v, layout_mask(config, length), SCALE)
    result = window_attention(q, k, v, config.sparse_pattern, starts, SCALE)
    assert result.shape == q.shape
    assert (result - expected).abs().max() < 1e-5


@settings(max_examples=25, deadline=None)
@given(sparse_configs(), st.data())
def test_gradients_of_attention_by_windows_are_the_references(config: ModelConfig, data: st.DataObject) -> None:
    length = data.draw(lengths(config))
    starts = global_starts(config)
    gradients = []
    for is_fast in (True, False):
        leaves = [x.requires_grad_() for x in random_qkv(config.num_attention_heads, length)]
        if is_fast:
            out = window_attention(*leaves, config.sparse_pattern, starts, SCALE)
        else:
            out = masked_attention(*leaves, layout_mask(config, length), SCALE)
        (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for fast, slow in zip(*gradients, strict=True):
        assert (fast - slow).abs().max() < 1e-5


@pytest.mark.parametrize("length", [10, 16, 17, 50])
def test_the_contents_of_padding_columns_change_nothing_before_them(length: int) -> None:
    config = tiny_config()
    starts = global_starts(config)
    long = random_qkv(8, 70)
    other = [torch.cat([x[:, :, :length], x[:, :, length:] * 1e3], dim=2) for x in long]
    first, second = (window_attention(*x, config.sparse_pattern, starts, SCALE)[:, :, :length] for x in (long, other))
    assert torch.equal(first, second)


def test_gather_global_returns_each_heads_global_tokens_of_every_whole_window() -> None:
    """Windows of 16 in blocks of 4: head 0 keeps tokens 12–15 of each, head 1 tokens 8–11."""
    config = tiny_config()
    positions = torch.arange(40.0)[None, None, :, None].expand(1, 2, -1, 1)
    kept = gather_global(positions, config.sparse_pattern, global_starts(config)[:2])
    assert kept[0, :, :, 0].tolist() == [[12, 13, 14, 15, 28, 29, 30, 31], [8, 9, 10, 11, 24, 25, 26, 27]]
