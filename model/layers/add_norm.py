"""Residual addition followed by LayerNorm, in one pass over memory.

There is a C kernel for CPUs and a Triton kernel for GPUs; where neither runs, or gradients are
needed, torch does it in two steps.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from tirazh.model.kernels.build import ELEMENT_TYPES, load_kernel
from tirazh.model.kernels.triton_here import runs_triton

_WIDEST = 16384  # elements of a row that one program of the Triton kernel holds
_SIZE_UNIT = 16  # the C kernel takes rows of a multiple of this many elements


def add_norm(hidden: Tensor, update: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Return `hidden + update` and its LayerNorm, [..., C] each."""
    if type(norm) is nn.LayerNorm and norm.bias is not None and not torch.is_grad_enabled():
        if runs_triton(hidden.device) and hidden.shape[-1] <= _WIDEST:
            return _launched(hidden, update, norm)
        if _can_compile(hidden, update, norm):
            return _compiled(hidden, update, norm)
    hidden = hidden + update
    return hidden, norm(hidden)


def _can_compile(hidden: Tensor, update: Tensor, norm: nn.LayerNorm) -> bool:
    tensors = (hidden, update, norm.weight, norm.bias)
    is_uniform = all(x.device.type == "cpu" and x.dtype == hidden.dtype and x.dtype in ELEMENT_TYPES for x in tensors)
    is_whole = hidden.shape == update.shape and hidden.shape[-1] % _SIZE_UNIT == 0
    is_whole = is_whole and norm.weight.shape == norm.bias.shape == hidden.shape[-1:]
    return is_uniform and is_whole and load_kernel("add_norm") is not None


def _compiled(hidden: Tensor, update: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    kernel = load_kernel("add_norm")
    assert kernel is not None
    size = hidden.shape[-1]
    hidden, update = hidden.contiguous(), update.contiguous()
    total, normed = torch.empty_like(hidden), torch.empty_like(hidden)
    tensors = (hidden, update, norm.weight.contiguous(), norm.bias.contiguous(), total, normed)
    getattr(kernel, f"add_norm_{ELEMENT_TYPES[hidden.dtype]}")(
        *(ctypes.c_void_p(x.data_ptr()) for x in tensors),
        ctypes.c_int64(hidden.numel() // size),
        ctypes.c_int64(size),
        ctypes.c_float(norm.eps),
        ctypes.c_int(torch.get_num_threads()),
    )
    return total, normed


def _launched(hidden: Tensor, update: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    from tirazh.model.kernels import add_norm_triton

    hidden, update = hidden.contiguous(), update.contiguous()
    total, normed = torch.empty_like(hidden), torch.empty_like(hidden)
    size = hidden.shape[-1]
    padded = 1 << (size - 1).bit_length()
    add_norm_triton.add_norm[hidden.numel() // size,](
        hidden, update, norm.weight, norm.bias, total, normed, size, norm.eps,
        C=padded, num_warps=max(1, min(8, padded // 512)),
    )  # fmt: skip
    return total, normed
