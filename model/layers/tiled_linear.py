"""A bfloat16 linear layer by a C kernel of ours (`kernels/linear.c`), for CPUs with AMX tiles.

It takes 0.5 to 0.9 of oneDNN's time. Threads take work from a shared counter, so a thread whose
core is busy with another process delays no other thread; GELU is applied while the sums are in
registers; weights are prefetched.
"""

from __future__ import annotations

import ctypes
from typing import Literal

import torch
from torch import Tensor, nn

from tirazh.model.kernels.build import load_kernel

Activation = Literal["none", "gelu"]
_INPUT_UNIT = 32
_PANEL = 32  # outputs that are packed together (PANEL of the kernel)


class TiledLinear(nn.Module):
    """`activation(x @ weight.T + bias)` for inference, GELU in its tanh approximation.

    A row's bits depend on that row alone, not even on the number of rows. `weight` is packed: a row
    for every output, padded with zeros to whole panels.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, *, activation: Activation = "none") -> None:
        """Pack the weight [out, in], bfloat16, for which `can_tile` must hold; `bias` [out]."""
        super().__init__()
        kernel = load_kernel("linear")
        if kernel is None or not can_tile(weight):
            raise ValueError(f"no weight to multiply in tiles: {weight.dtype} {list(weight.shape)}")
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
        """[..., in] to [..., out], bfloat16. Raises MemoryError, and ValueError for other inputs."""
        kernel = load_kernel("linear")
        assert kernel is not None
        if x.dtype != torch.bfloat16 or x.shape[-1] != self.in_features:
            raise ValueError(f"the input must be bfloat16 [..., {self.in_features}], got {x.dtype} {list(x.shape)}")
        x = x.contiguous()
        out = x.new_empty(*x.shape[:-1], self.out_features)
        bias = None if self.bias is None else self.bias.data_ptr()
        num_rows = x.numel() // self.in_features
        is_gelu = int(self.activation == "gelu")
        arguments = LinearArguments(
            *(x.data_ptr(), bias, self.weight.data_ptr(), out.data_ptr()),
            *(num_rows, self.in_features, self.out_features, is_gelu),
        )
        if kernel.linear_bf16(ctypes.byref(arguments), ctypes.c_int(torch.get_num_threads())):
            raise MemoryError(f"no memory for the sums of a matmul of {num_rows} rows")
        return out


class LinearArguments(ctypes.Structure):
    """The structure `linear_arguments` of the kernel, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "bias", "weight", "out")),
        *((name, ctypes.c_int64) for name in ("num_rows", "num_inputs", "num_outputs", "is_gelu")),
    )


def can_tile(weight: Tensor) -> bool:
    """Whether a weight [out, in] can be multiplied in AMX tiles on this machine."""
    is_fit = weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and weight.dim() == 2
    if not is_fit or weight.shape[1] % _INPUT_UNIT:
        return False
    kernel = load_kernel("linear")
    return kernel is not None and bool(kernel.can_multiply_in_tiles())
