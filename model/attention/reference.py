"""Attention as a specification: slow, obvious code that every fast implementation is tested
against.

Legend: B batch, H heads, T query tokens, S key tokens, D head dim, M blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tirazh.model.config import SparsePattern


def expand_layout(layout_HMM: Tensor, block_size: int, num_tokens: int) -> Tensor:
    """Expand a block layout to a causal token mask.

    Returns bool [H, T, T], same device, T = num_tokens.

    A specification for tests; no product code calls it.
    """
    mask_HTT = layout_HMM.repeat_interleave(block_size, dim=1).repeat_interleave(block_size, dim=2)
    return mask_HTT[:, :num_tokens, :num_tokens].tril()


def visible_keys(
    pattern: SparsePattern, global_starts_H: Tensor, query_positions: Tensor, key_positions: Tensor
) -> Tensor:
    """The fixed sparse pattern as a rule on positions, which count from a sequence's own first
    token.

    A query sees its own window up to itself, and of all earlier windows the global tokens of its
    head.

    query_positions [B, T] and key_positions [B, S], int64; global_starts_H as
    `block_layout.global_starts`.
    Returns bool [B, H, T, S].
    """
    query, key = query_positions[:, None, :, None], key_positions[:, None, None, :]
    window, start = pattern.window_size, global_starts_H[None, :, None, None]
    in_own_window = query // window == key // window
    in_global_block = (key % window >= start) & (key % window < start + pattern.global_size)
    return (key <= query) & (in_own_window | in_global_block)


def masked_attention(q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Softmax attention over the keys that `mask` (bool, broadcast to [B, H, T, S]) allows.

    Returns [B, H, T, D].

    A specification for tests; no product code calls it.
    """
    scores = (q_BHTD @ k_BHSD.transpose(-1, -2)) * scale
    return torch.softmax(scores.masked_fill(~mask, float("-inf")), dim=-1) @ v_BHSD
