"""Attention over whole sequences: training, scoring a text, transformers' own `generate`.

The batch engine's attention, over its KV cache, is in `attention/backends/`. Both are tested
against `attention/reference.py`.
Legend: B batch, H heads on this rank, T tokens, W tokens of a window, G global tokens of a window,
D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tirazh.model.attention.backends import cpu_prefill
from tirazh.model.attention.backends.interface import HeadType
from tirazh.model.config import SparsePattern


def gather_global(x_BHTD: Tensor, pattern: SparsePattern, global_starts: Sequence[int]) -> Tensor:
    """Each head's global tokens of all whole windows, in order. Returns [B, H, T // W * G, D]."""
    window, size = pattern.window_size, pattern.global_size
    num_windows = x_BHTD.shape[2] // window
    windows = x_BHTD[:, :, : num_windows * window].unflatten(2, (num_windows, window))
    per_head = [windows[:, head, :, start : start + size] for head, start in enumerate(global_starts)]
    return torch.stack(per_head, dim=1).flatten(2, 3)


def window_attention(
    q_BHTD: Tensor,
    k_BHTD: Tensor,
    v_BHTD: Tensor,
    pattern: SparsePattern,
    global_starts: Sequence[int],
    scale: float,
) -> Tensor:
    """The fixed pattern, exactly, over sequences that all begin at column 0; differentiable.

    Returns [B, H, T, D].

    A query reads the global tokens of the windows before its own, then its own window up to itself.
    So the attention of each window is dense attention over few keys, and needs no sparse kernel.
    `global_starts`: token offset within a window at which each head's global tokens begin. Columns
    behind a sequence's end may hold anything: attention is causal, so no earlier column sees them.
    """
    length, window = q_BHTD.shape[2], pattern.window_size
    if length <= window:
        return scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True, scale=scale)
    global_k, global_v = (gather_global(x, pattern, global_starts) for x in (k_BHTD, v_BHTD))
    if not torch.is_grad_enabled() and cpu_prefill.supports(HeadType.of(q_BHTD)):
        q_BTHD, k_BTHD, v_BTHD = (x.transpose(1, 2) for x in (q_BHTD, k_BHTD, v_BHTD))
        rows = zip(q_BTHD, k_BTHD, v_BTHD, global_k, global_v, strict=True)
        outs = [cpu_prefill.attend_windows(q, k, v, (gk, gv), pattern, scale) for q, k, v, gk, gv in rows]
        return torch.stack(outs).transpose(1, 2)
    outs = []
    for start in range(0, length, window):
        own, num_global = slice(start, start + window), start // window * pattern.global_size
        q = q_BHTD[:, :, own]
        keys, values = (
            torch.cat([retained[:, :, :num_global], x[:, :, own]], dim=2)
            for retained, x in ((global_k, k_BHTD), (global_v, v_BHTD))
        )
        size = q.shape[2]
        mask_TS = torch.ones(size, num_global + size, dtype=torch.bool, device=q.device).tril(num_global)
        outs.append(scaled_dot_product_attention(q, keys, values, mask_TS, scale=scale))
    return torch.cat(outs, dim=2)
