"""Attention over whole sequences (training, scoring a text, transformers' own `generate`).

The batch engine's attention, over its cache, is in `attention/step_attention.py`. Both are tested against
`attention/reference.py`. Legend: B batch, H heads on this rank, T tokens, W tokens of a window, G global tokens of a
closed window, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tirazh.model.attention.prefill import attend_windows, can_compile
from tirazh.model.config import SparsePattern


def gather_strips(x_BHTD: Tensor, pattern: SparsePattern, global_starts: Sequence[int]) -> Tensor:
    """Each head's global tokens of every whole window, in order. Returns [B, H, T // W * G, D]."""
    window, size = pattern.window_size, pattern.global_size
    num_windows = x_BHTD.shape[2] // window
    windows = x_BHTD[:, :, : num_windows * window].unflatten(2, (num_windows, window))
    strips = [windows[:, head, :, start : start + size] for head, start in enumerate(global_starts)]
    return torch.stack(strips, dim=1).flatten(2, 3)


def window_attention(
    q_BHTD: Tensor,
    k_BHTD: Tensor,
    v_BHTD: Tensor,
    pattern: SparsePattern,
    global_starts: Sequence[int],
    scale: float,
) -> Tensor:
    """The fixed pattern exactly, over sequences that all begin at column 0; differentiable. Returns [B, H, T, D].
    `global_starts`: where in a window each head's global tokens begin.

    A query reads the strips of the windows before its own, then its own window up to itself: plain attention, window
    by window, no sparse kernel. Columns past a sequence's end may hold anything: nothing before them looks at them.
    """
    length, window = q_BHTD.shape[2], pattern.window_size
    if length <= window:
        return scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True, scale=scale)
    strips_k, strips_v = (gather_strips(x, pattern, global_starts) for x in (k_BHTD, v_BHTD))
    if not torch.is_grad_enabled() and can_compile(q_BHTD):
        q_BTHD, k_BTHD, v_BTHD = (x.transpose(1, 2) for x in (q_BHTD, k_BHTD, v_BHTD))
        rows = zip(q_BTHD, k_BTHD, v_BTHD, strips_k, strips_v, strict=True)
        outs = [attend_windows(q, k, v, (sk, sv), pattern, scale) for q, k, v, sk, sv in rows]
        return torch.stack(outs).transpose(1, 2)
    outs = []
    for start in range(0, length, window):
        own, num_strips = slice(start, start + window), start // window * pattern.global_size
        q = q_BHTD[:, :, own]
        keys, values = (
            torch.cat([strips[:, :, :num_strips], x[:, :, own]], dim=2)
            for strips, x in ((strips_k, k_BHTD), (strips_v, v_BHTD))
        )
        size = q.shape[2]
        mask_TS = torch.ones(size, num_strips + size, dtype=torch.bool, device=q.device).tril(num_strips)
        outs.append(scaled_dot_product_attention(q, keys, values, mask_TS, scale=scale))
    return torch.cat(outs, dim=2)
