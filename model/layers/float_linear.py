"""A float32 linear layer by a C kernel of ours (`kernels/linear_float.c`), for CPUs with AVX2 but no AVX-512.

oneDNN gives each thread an equal share of a matmul in advance, so a thread whose core is busy with
another process delays all; here threads take small items of work one after the other. A row's bits
depend on that row alone, so steps need no padding. GELU is applied while the sums are in the cache.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from tirazh.model.kernels.build import load_kernel
from tirazh.model.layers.tiled_linear import Activation, LinearArguments


class FloatLinear(nn.Module):
    """`activation(x @ weight.T + bias)` for inference, GELU in its tanh approximation.

    A row's bits depend on that row alone, not even on the number of rows. `weight` is packed: a row
    for every output, padded with zeros to whole panels.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, *, activation: Activation = "none") -> None:
        """Pack the weight [out, in], float32, for which `can_multiply` must hold; `bias` [out]."""
        super().__init__()
        kernel = load_kernel("linear_float")
        if kernel is None or not can_multiply(weight):
            raise ValueError(f"no weight for the float32 kernel: {weight.dtype} {list(weight.shape)}")
        weight = weight.detach().contiguous()
        self.out_features, self.in_features = weight.shape
        panel = kernel.panel_size()
        packed = weight.new_empty(-(-self.out_features // panel) * panel, self.in_features)
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
        """[..., in] to [..., out], float32. Raises ValueError for other inputs."""
        kernel = load_kernel("linear_float")
        assert kernel is not None
        if x.dtype != torch.float32 or x.shape[-1] != self.in_features:
            raise ValueError(f"the input must be float32 [..., {self.in_features}], got {x.dtype} {list(x.shape)}")
        x = x.contiguous()
        out = x.new_empty(*x.shape[:-1], self.out_features)
        bias = None if self.bias is None else self.bias.data_ptr()
        arguments = LinearArguments(
            *(x.data_ptr(), bias, self.weight.data_ptr(), out.data_ptr()),
            *(x.numel() // self.in_features, self.in_features, self.out_features, int(self.activation == "gelu")),
        )
        kernel.linear_float(ctypes.byref(arguments), ctypes.c_int(torch.get_num_threads()))
        return out


def can_multiply(weight: Tensor) -> bool:
    """Whether the kernel multiplies a weight [out, in] on this machine at least as fast as oneDNN."""
    is_fit = weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.dim() == 2 and weight.shape[1] > 0
    kernel = load_kernel("linear_float") if is_fit else None
    return kernel is not None and bool(kernel.is_fast())
