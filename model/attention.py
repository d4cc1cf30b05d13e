"""Attention over whole sequences (training, scoring a text, transformers' own `generate`).

The batch engine's attention, over its cache, is in `cached_attention.py`. Both are tested against
`attention_reference.py`. Legend: B batch, H heads on this rank, T tokens, N windows, W tokens of a window, G global
tokens of a closed window, D head dim.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from model.config import SparsePattern


def gather_strips(x_BHTD: Tensor, pattern: SparsePattern, global_starts_H: Tensor) -> Tensor:
    """Each head's global tokens of every whole window, in order. Returns [B, H, T // W * G, D]."""
    batch, heads, length, dim = x_BHTD.shape
    num_windows = length // pattern.window_size
    windows = torch.arange(num_windows, device=x_BHTD.device)[None, :, None] * pattern.window_size
    tokens = torch.arange(pattern.global_size, device=x_BHTD.device)[None, None, :]
    index_HS = (windows + global_starts_H.to(x_BHTD.device)[:, None, None] + tokens).flatten(1)
    return x_BHTD.gather(2, index_HS[None, :, :, None].expand(batch, heads, -1, dim))


def window_attention(
    q_BHTD: Tensor,
    k_BHTD: Tensor,
    v_BHTD: Tensor,
    pattern: SparsePattern,
    global_starts_H: Tensor,
    scale: float,
) -> Tensor:
    """The fixed pattern exactly, over sequences that all begin at column 0; differentiable. Returns [B, H, T, D].

    A query reads the strips of the windows before its own, then its own window up to itself: plain attention with
    one query group a window, no sparse kernel. Columns past a sequence's end may hold anything: nothing before
    them looks at them.
    """
    heads, length = q_BHTD.shape[1:3]
    window = pattern.window_size
    if length <= window:
        return scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True, scale=scale)
    num_windows = -(-length // window)
    fill = (0, 0, 0, num_windows * window - length)
    q, k, v = (pad(x, fill).unflatten(2, (num_windows, window)) for x in (q_BHTD, k_BHTD, v_BHTD))
    keys, values = (
        torch.cat(
            [
                gather_strips(x, pattern, global_starts_H)[:, :, None].expand(-1, -1, num_windows, -1, -1),
                windows,
            ],
            dim=3,
        )
        for x, windows in ((k_BHTD, k), (v_BHTD, v))
    )
    mask_NWS = _window_mask(num_windows, length // window, pattern, q_BHTD.device)
    out = scaled_dot_product_attention(
        q.flatten(1, 2), keys.flatten(1, 2), values.flatten(1, 2), mask_NWS.repeat(heads, 1, 1), scale=scale
    )
    return out.unflatten(1, (heads, num_windows)).flatten(2, 3)[:, :, :length]


def _window_mask(num_windows: int, num_strips: int, pattern: SparsePattern, device: torch.device) -> Tensor:
    """Bool [N, W, num_strips * G + W]: strips of earlier windows, then the own window causally."""
    window = torch.arange(num_windows, device=device)[:, None, None]
    strip = torch.arange(num_strips * pattern.global_size, device=device)[None, None, :] // pattern.global_size
    own = torch.ones(pattern.window_size, pattern.window_size, dtype=torch.bool, device=device).tril()
    return torch.cat([(strip < window).expand(-1, pattern.window_size, -1), own.expand(num_windows, -1, -1)], dim=2)
