"""The MLP's activation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

_TWO_VECTORS = 64  # elements, of the narrowest dtype on the widest CPUs


class TanhGELU(nn.Module):
    """The tanh approximation of GELU, with bits that do not depend on an element's position in the
    tensor.

    On a CPU torch divides the elements evenly among its threads. The elements at the end of a
    thread's share that fill no two vectors take a scalar path, which rounds differently. So the
    elements that do not divide into whole vectors per thread are computed in a separate call.
    """

    def forward(self, x: Tensor) -> Tensor:
        share = _TWO_VECTORS * torch.get_num_threads()
        even = x.numel() // share * share
        if x.device.type != "cpu" or torch.is_grad_enabled() or even == x.numel():
            return gelu(x, approximate="tanh")
        return torch.cat([gelu(part, approximate="tanh") for part in x.view(-1).tensor_split([even])]).view_as(x)
