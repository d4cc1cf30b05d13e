"""Random linear layers, and what they must compute."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tirazh.model.layers.kernel_linear import Activation


def draw(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x [rows, inputs], a weight [outputs, inputs] that keeps its scale, and a bias."""
    generator = torch.Generator().manual_seed(rows + inputs + outputs)
    x, weight, bias = (
        torch.randn(*size, generator=generator) for size in ((rows, inputs), (outputs, inputs), (outputs,))
    )
    return x.to(dtype), (weight / inputs**0.5).to(dtype), bias.to(dtype)


def expected(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation) -> Tensor:
    """In float64."""
    out = nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    return nn.functional.gelu(out, approximate="tanh") if activation == "gelu" else out
