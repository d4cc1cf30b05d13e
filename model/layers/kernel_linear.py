"""What the linear layers by C kernels of ours share: the packed weight and the call of the kernel.

Threads take small items of work one after the other, so a thread whose core is busy with another
process delays no other thread for long; oneDNN gives each thread an equal share in advance. A row's
bits depend on that row alone, so steps need no padding. GELU is applied while the sums are in the
cache, and weights are fetched before they are needed.
"""

from __future__ import annotations

import ctypes
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from tirazh.model.huge_pages import empty_in_huge_pages
from tirazh.model.kernels.build import load_kernel
from tirazh.model.kernels.calls import Call, KernelCall, address
from tirazh.model.layers.prepared_linear import Workspace

Activation = Literal["none", "gelu"]


class LinearArguments(ctypes.Structure):
    """The structure `linear_arguments` of the kernels, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "bias", "weight", "out")),
        *((name, ctypes.c_int64) for name in ("num_rows", "num_inputs", "num_outputs", "is_gelu", "is_float_out")),
    )


class KernelLinear(nn.Module):
    """`activation(x @ weight.T + bias)` for inference on a CPU, GELU in its tanh approximation.

    A row's bits depend on that row alone, not even on the number of rows. `weight` is packed: a row
    for every output, padded with zeros to whole panels. Each kernel has a class of its own.
    """

    kernel: ClassVar[str]  # the C file
    dtype: ClassVar[torch.dtype]
    input_unit: ClassVar[int]  # inputs are a multiple of it
    has_float_out: ClassVar[bool] = False  # the kernel can write its results as float32, without GELU

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, *, activation: Activation = "none") -> None:
        """Pack the weight [out, in], for which `can_multiply` must hold; `bias` [out]. Raises ValueError."""
        super().__init__()
        kernel = load_kernel(self.kernel) if self.can_multiply(weight) else None
        if kernel is None:
            raise ValueError(f"no weight for the kernel {self.kernel}: {weight.dtype} {list(weight.shape)}")
        self.out_features, self.in_features = weight.shape
        self.register_buffer("weight", _pack(kernel, weight.detach().contiguous()))
        self.register_buffer("bias", None if bias is None else bias.detach().contiguous())
        self.activation = activation

    @classmethod
    def can_multiply(cls, weight: Tensor) -> bool:
        """Whether the kernel takes a weight [out, in], and is as fast as oneDNN on this machine."""
        is_fit = weight.device.type == "cpu" and weight.dtype == cls.dtype and weight.dim() == 2
        if not is_fit or weight.shape[1] == 0 or weight.shape[1] % cls.input_unit:
            return False
        kernel = load_kernel(cls.kernel)
        return kernel is not None and bool(kernel.can_multiply())

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]. Raises MemoryError, and ValueError for other inputs."""
        return self._multiply(x, self.dtype)

    def in_float32(self, x: Tensor) -> Tensor:
        """The same, rounded to the layer's dtype, as float32."""
        if self.has_float_out and self.activation == "none":
            return self._multiply(x, torch.float32)
        return self.forward(x).float()

    def has_calls(self, dtype: torch.dtype) -> bool:
        return dtype == self.dtype

    def prepare(self, x: Tensor, out: Tensor, workspace: Workspace) -> list[Call]:
        return [self.call(x, out)]

    def call(self, x: Tensor, out: Tensor) -> KernelCall:
        """Prepare the multiplication of x [..., in], of the layer's dtype, into `out` [..., out], which may be float32
        if the kernel `has_float_out`; both contiguous."""
        kernel = load_kernel(self.kernel)
        assert kernel is not None
        sizes = x.numel() // self.in_features, self.in_features, self.out_features
        flags = self.activation == "gelu", out.dtype != self.dtype
        arguments = LinearArguments(*map(address, (x, self.bias, self.weight, out)), *sizes, *map(int, flags))
        return KernelCall(kernel.multiply, arguments, (x, self.bias, self.weight, out))

    def _multiply(self, x: Tensor, out_dtype: torch.dtype) -> Tensor:
        if x.dtype != self.dtype or x.shape[-1] != self.in_features:
            raise ValueError(f"the input must be {self.dtype} [..., {self.in_features}], got {x.dtype} {list(x.shape)}")
        out = x.new_empty(*x.shape[:-1], self.out_features, dtype=out_dtype)
        self.call(x.contiguous(), out).run()
        return out


def _pack(kernel: ctypes.CDLL, weight: Tensor) -> Tensor:
    num_outputs, num_inputs = weight.shape
    panel: int = kernel.panel_size()
    packed = empty_in_huge_pages((-(-num_outputs // panel) * panel, num_inputs), weight.dtype)
    kernel.pack_weight(
        ctypes.c_void_p(weight.data_ptr()),
        ctypes.c_int64(num_inputs),
        ctypes.c_int64(num_outputs),
        ctypes.c_void_p(packed.data_ptr()),
        ctypes.c_int(torch.get_num_threads()),
    )
    return packed
