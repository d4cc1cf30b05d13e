"""Prepares a model's linear layers for inference.

Queries, keys and values are computed by one matmul, and the GELU behind an MLP's first linear is
fused into it. On a CPU weights are packed as well. oneDNN multiplies weights in a blocked layout;
`nn.Linear` keeps the plain layout and converts it in every call, which with the few rows of a
decode step takes up to half the time. A kernel of ours replaces oneDNN's for bfloat16 on CPUs with AMX
tiles or AVX512-BF16, and for float32 on those with AVX2 or AVX-512.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tirazh.model.layers.activation import TanhGELU
from tirazh.model.layers.bfloat16_linear import Bfloat16Linear
from tirazh.model.layers.float_linear import FloatLinear
from tirazh.model.layers.int8_linear import Int8Linear, can_round
from tirazh.model.layers.kernel_linear import Activation, KernelLinear
from tirazh.model.layers.tiled_linear import TiledLinear

_MKLDNN = torch.ops.mkldnn
# Fastest first.
_KERNELS: tuple[type[KernelLinear], ...] = (TiledLinear, Bfloat16Linear, FloatLinear)
# Modules without children that compute each row, or each element, by itself.
_ROW_BY_ROW = (KernelLinear, Int8Linear, nn.Embedding, nn.LayerNorm, nn.Identity, nn.Dropout)
_HEAD_DIM_UNIT = 16  # of the prefill kernel


class PackedLinear(nn.Module):
    """`activation(x @ weight.T + bias)` for inference on a CPU, with a weight [out, in] in oneDNN's
    blocked layout."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, *, rows: int, activation: Activation = "none") -> None:
        """Pack the weight.

        The layout is tuned for matmuls of `rows` rows, but takes any number of rows.
        """
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.register_buffer("weight", _MKLDNN._reorder_linear_weight(weight.detach().contiguous(), rows))
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.activation = activation
        self._algorithm = "tanh" if activation == "gelu" else ""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        packed: Tensor = _MKLDNN._linear_pointwise(x, self.weight, self.bias, self.activation, [], self._algorithm)
        return packed


class GeluLinear(nn.Module):
    """`gelu(x @ weight.T + bias)` in one kernel on a GPU, GELU in its tanh approximation; `weight`
    is [out, in]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.out_features, self.in_features = linear.weight.shape

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        rows = x.reshape(-1, x.shape[-1])
        out: Tensor = torch._addmm_activation(self.bias, rows, self.weight.t(), use_gelu=True)
        return out.view(*x.shape[:-1], -1)


def pack_weight(weight: Tensor, bias: Tensor | None, *, rows: int, activation: Activation = "none") -> nn.Module:
    """Build the fastest linear layer for this CPU, for a weight that `can_pack`; `rows` as in
    `PackedLinear`."""
    kind = own_kernel(weight)
    if kind is not None:
        return kind(weight, bias, activation=activation)
    return PackedLinear(weight, bias, rows=rows, activation=activation)


def own_kernel(weight: Tensor) -> type[KernelLinear] | None:
    """The linear layer by a kernel of ours that multiplies such a weight on this machine; None: oneDNN does."""
    return next((kind for kind in _KERNELS if kind.can_multiply(weight)), None)


def pack_linears(model: nn.Module, *, rows: int, to_int8: bool = False) -> None:
    """Replace a model's linear layers, one after the other, by faster ones for inference.

    The model can no longer be trained or saved. Weights of a dtype that oneDNN cannot pack stay as
    they are. `rows`: the number of rows of the matmuls that matter most. `to_int8`: round the weights to 8 bits.
    """
    can_replace = _can_round if to_int8 else _can_replace
    for module in list(model.modules()):
        fuse = getattr(module, "fuse_projections", None)
        if fuse is not None and can_replace(next(module.parameters(), None)):
            fuse()
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and can_replace(child.weight):
                is_up = name == "up_proj" and isinstance(getattr(module, "activation", None), TanhGELU)
                if not child.weight.is_cuda:
                    activation: Activation = "gelu" if is_up else "none"
                    packed = (
                        Int8Linear(child.weight, child.bias, activation=activation)
                        if to_int8
                        else pack_weight(child.weight, child.bias, rows=rows, activation=activation)
                    )
                    setattr(module, name, packed)
                elif is_up:
                    setattr(module, name, GeluLinear(child))
                if is_up:
                    module.activation = nn.Identity()


def rows_are_independent(model: nn.Module) -> bool:
    """Whether the bits of a row never depend on the number of rows in a step.

    All linears must be `KernelLinear`, or `Int8Linear` with its kernel. Unless they are `TiledLinear`, everything
    else must be known as well: no foreign activation or rotary embedding, which torch computes differently at the
    end of a tensor, and heads that our attention kernels take.
    """
    modules = list(model.modules())
    linears = [module for module in modules if isinstance(weight := getattr(module, "weight", None), Tensor)
               and weight.dim() > 1 and not isinstance(module, nn.Embedding)]  # fmt: skip
    if not all(_is_row_by_row(linear) for linear in linears):
        return False
    if all(isinstance(linear, TiledLinear) for linear in linears):
        return True
    leaves = [module for module in modules if next(module.children(), None) is None]
    return all(isinstance(leaf, _ROW_BY_ROW) for leaf in leaves) and _head_dim(model) % _HEAD_DIM_UNIT == 0


def _is_row_by_row(linear: nn.Module) -> bool:
    return linear.has_kernel if isinstance(linear, Int8Linear) else isinstance(linear, KernelLinear)


def _head_dim(model: nn.Module) -> int:
    config: Any = getattr(model, "config", None)
    return 0 if config is None else int(config.hidden_size // config.num_attention_heads)


def _can_replace(weight: Tensor | None) -> bool:
    return weight is not None and (weight.is_cuda or can_pack(weight))


def _can_round(weight: Tensor | None) -> bool:
    return weight is not None and can_round(weight)


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN has kernels for packed weights of this dtype and device here."""
    if weight.device.type != "cpu" or weight.dim() != 2 or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(_MKLDNN._is_mkldnn_bf16_supported())
    if weight.dtype == torch.float16:
        return bool(_MKLDNN._is_mkldnn_fp16_supported())
    return weight.dtype == torch.float32
