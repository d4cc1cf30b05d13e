"""Residual addition followed by LayerNorm, in one pass over memory.

There is a C kernel for CPUs and a Triton kernel for GPUs; where neither runs, or gradients are
needed, torch does it in two steps.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from tirazh.model.kernels.build import ELEMENT_TYPES, load_kernel
from tirazh.model.kernels.calls import KernelCall, address
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
    is_uniform = all(x.device.type == "cpu" and x.dtype == hidden.dtype for x in (hidden, update))
    is_whole = hidden.shape == update.shape and norm.weight.shape == norm.bias.shape == hidden.shape[-1:]
    return is_uniform and is_whole and has_add_norm_kernel(norm, hidden.dtype)


def add_norm_call(hidden: Tensor, update: Tensor, norm: nn.LayerNorm, total: Tensor, normed: Tensor) -> KernelCall:
    """Prepare the C kernel's call: `total` and `normed` get the results. All are contiguous [..., C], of the dtype of
    the norm; `total` may be `hidden`."""
    kernel = load_kernel("add_norm")
    assert kernel is not None
    size = hidden.shape[-1]
    tensors = (hidden, update, norm.weight.contiguous(), norm.bias.contiguous(), total, normed)
    arguments = AddNormArguments(*map(address, tensors), hidden.numel() // size, size, norm.eps)
    return KernelCall(getattr(kernel, f"add_norm_{ELEMENT_TYPES[hidden.dtype]}"), arguments, tensors)


def has_add_norm_kernel(norm: nn.Module, dtype: torch.dtype) -> bool:
    """Whether the C kernel takes rows of this dtype, and the norm behind their sum."""
    if type(norm) is not nn.LayerNorm or norm.bias is None or dtype not in ELEMENT_TYPES:
        return False
    weights = (norm.weight, norm.bias)
    is_fit = all(x.device.type == "cpu" and x.dtype == dtype and x.dim() == 1 for x in weights)
    return is_fit and len(norm.weight) % _SIZE_UNIT == 0 and load_kernel("add_norm") is not None


class AddNormArguments(ctypes.Structure):
    """The structure `arguments` of the C kernel, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("hidden", "update", "weight", "bias", "total", "normed")),
        *((name, ctypes.c_int64) for name in ("num_rows", "size")),
        ("eps", ctypes.c_float),
    )


def _compiled(hidden: Tensor, update: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    hidden, update = hidden.contiguous(), update.contiguous()
    total, normed = torch.empty_like(hidden), torch.empty_like(hidden)
    add_norm_call(hidden, update, norm, total, normed).run()
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
