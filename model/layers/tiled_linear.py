"""A linear layer of bfloat16 by a kernel of ours (`kernels/linear.c`), for CPUs that multiply in tiles (AMX).

It takes a half to nine tenths of oneDNN's time there: threads share work out as they get done, so that one whose core
is busy with somebody else's work holds up nobody; GELU happens while sums are at hand; weights are fetched
ahead.
"""

from __future__ import annotations

import ctypes
from typing import Literal

import torch
from torch import Tensor, nn

from tirazh.model.kernels.build import load_kernel

Activation = Literal["none", "gelu"]
_INPUT_UNIT = 32
_PANEL = 32  # outputs that are packed together


class TiledLinear(nn.Module):
    """`activation(x @ weight.T + bias)` for inference, GELU in its tanh form. A row's bits depend on that row alone,
    not even on how many there are. `weight` is packed; it has a row for every output, and zeros to fill a panel."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, *, activation: Activation = "none") -> None:
        """weight [out, in] and bias [out] of bfloat16, as `can_tile` says."""
        super().__init__()
        kernel = load_kernel("linear")
        assert kernel is not None
        weight = weight.detach().contiguous()
        self.out_features, self.in_features = weight.shape
        packed = weight.new_empty(-(-self.out_features // _PANEL) * _PANEL, self.in_features)
        kernel.pack_weight(
            ctypes.c_void_p(weight.data_ptr()),
            ctypes.c_int64(self.in_features),
            ctypes.c_int64(self.out_features),
            ctypes.c_void_p(packed.data_ptr()),
            ctypes.c_int(torch.get_num_threads()),
        )
        self.register_buffer("weight", packed)
        self.register_buffer("bias", None if bias is None else bias.detach().contiguous())
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out], bfloat16. Raises MemoryError."""
        kernel = load_kernel("linear")
        assert kernel is not None
        assert x.dtype == torch.bfloat16
        assert x.shape[-1] == self.in_features
        x = x.contiguous()
        out = x.new_empty(*x.shape[:-1], self.out_features)
        bias = None if self.bias is None else self.bias.data_ptr()
        num_rows = x.numel() // self.in_features
        is_gelu = int(self.activation == "gelu")
        arguments = _Arguments(
            *(x.data_ptr(), bias, self.weight.data_ptr(), out.data_ptr()),
            *(num_rows, self.in_features, self.out_features, is_gelu),
        )
        if kernel.linear_bf16(ctypes.byref(arguments), ctypes.c_int(torch.get_num_threads())):
            raise MemoryError(f"no memory for the sums of a product of {num_rows} rows")
        return out


class _Arguments(ctypes.Structure):
    """`linear_arguments` of the kernel, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "bias", "weight", "out")),
        *((name, ctypes.c_int64) for name in ("num_rows", "num_inputs", "num_outputs", "is_gelu")),
    )


def can_tile(weight: Tensor) -> bool:
    """Whether a weight [out, in] can be multiplied in tiles here."""
    is_fit = weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and weight.dim() == 2
    if not is_fit or weight.shape[1] % _INPUT_UNIT:
        return False
    kernel = load_kernel("linear")
    return kernel is not None and bool(kernel.can_multiply_in_tiles())
