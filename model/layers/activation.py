"""The MLP's activation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

_TWO_VECTORS = 64  # elements, of the narrowest numbers on the widest CPUs


class TanhGELU(nn.Module):
    """GELU in its tanh form, every element the same wherever it stands.

    On a CPU torch shares the elements evenly among its threads, and those left over at the end of a share, less than
    two vectors, are rounded otherwise. So what does not go evenly into shares of whole vectors is done apart.
    """

    def forward(self, x: Tensor) -> Tensor:
        share = _TWO_VECTORS * torch.get_num_threads()
        even = x.numel() // share * share
        if x.device.type != "cpu" or torch.is_grad_enabled() or even == x.numel():
            return gelu(x, approximate="tanh")
        return torch.cat([gelu(part, approximate="tanh") for part in x.view(-1).tensor_split([even])]).view_as(x)
