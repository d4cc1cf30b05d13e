"""Residual addition and LayerNorm, which always follow each other: in one pass over memory where a GPU infers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.kernels.triton_here import runs_triton

_WIDEST = 16384  # numbers of a row that one program of the kernel holds


def add_norm(hidden: Tensor, update: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """`hidden + update` and its LayerNorm, [..., C] each."""
    if _can_fuse(hidden, norm):
        return _fused(hidden, update, norm)
    hidden = hidden + update
    return hidden, norm(hidden)


def _can_fuse(hidden: Tensor, norm: nn.LayerNorm) -> bool:
    is_plain = type(norm) is nn.LayerNorm and norm.bias is not None and hidden.shape[-1] <= _WIDEST
    return is_plain and not torch.is_grad_enabled() and runs_triton(hidden)


def _fused(hidden: Tensor, update: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    from model.kernels import add_norm_triton

    hidden, update = hidden.contiguous(), update.contiguous()
    total, normed = torch.empty_like(hidden), torch.empty_like(hidden)
    size = hidden.shape[-1]
    padded = 1 << (size - 1).bit_length()
    add_norm_triton.add_norm[hidden.numel() // size,](
        hidden, update, norm.weight, norm.bias, total, normed, size, norm.eps,
        C=padded, num_warps=max(1, min(8, padded // 512)),
    )  # fmt: skip
    return total, normed
