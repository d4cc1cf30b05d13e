"""Linear layers whose weights were laid out once for the CPU's matrix kernels.

oneDNN lays a weight out in blocks before it multiplies; `nn.Linear` keeps the plain layout and pays for that in every
step, which at a decode step's few rows is up to half the time. Here it is done once, when a replica starts. The bias
and, behind an MLP's first linear, GELU are applied inside the same kernel.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from model.activation import TanhGELU

Activation = Literal["none", "gelu"]
_MKLDNN = torch.ops.mkldnn


class PackedLinear(nn.Module):
    """`activation(x @ weight.T + bias)` for inference on a CPU; `weight` is [out, in], in oneDNN's own layout."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, *, rows: int, activation: Activation = "none") -> None:
        """`rows`: how many rows a product mostly has; any other number works too."""
        super().__init__()
        self.register_buffer("weight", _MKLDNN._reorder_linear_weight(weight.detach().contiguous(), rows))
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.activation = activation
        self._algorithm = "tanh" if activation == "gelu" else ""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        packed: Tensor = _MKLDNN._linear_pointwise(x, self.weight, self.bias, self.activation, [], self._algorithm)
        return packed


def pack_linears(model: nn.Module, *, rows: int) -> None:
    """Replace every `nn.Linear` of a model on a CPU, one after the other, by its packed self; elsewhere, and for
    numbers that oneDNN cannot pack here, nothing happens. The model can no longer be trained or saved. `rows`: of the
    products that matter most."""
    for module in list(model.modules()):
        fuse = getattr(module, "fuse_projections", None)
        if fuse is not None and can_pack(next(module.parameters())):
            fuse()
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and can_pack(child.weight):
                is_up = name == "up_proj" and isinstance(getattr(module, "activation", None), TanhGELU)
                packed = PackedLinear(child.weight, child.bias, rows=rows, activation="gelu" if is_up else "none")
                setattr(module, name, packed)
                if is_up:
                    module.activation = nn.Identity()


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN has kernels for packed weights of this dtype and device here."""
    if weight.device.type != "cpu" or weight.dim() != 2 or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(_MKLDNN._is_mkldnn_bf16_supported())
    if weight.dtype == torch.float16:
        return bool(_MKLDNN._is_mkldnn_fp16_supported())
    return weight.dtype == torch.float32
