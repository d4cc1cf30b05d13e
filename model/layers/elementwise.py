"""Elementwise functions whose bits do not depend on an element's position in the tensor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_TWO_VECTORS = 64  # elements, of the narrowest dtype on the widest CPUs
_ONE_THREAD = 1 << 14  # elements that torch gives to one thread


def in_whole_vectors(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply an elementwise function of torch, of any shape.

    On a CPU torch computes whole vectors in one way, and the elements behind the last one by scalar code,
    which rounds differently; each thread's share ends so. Here the elements are padded to whole vectors,
    and one thread computes them.
    """
    if x.device.type != "cpu" or (x.numel() % _TWO_VECTORS == 0 and x.numel() <= _ONE_THREAD):
        return function(x)
    padded = torch.nn.functional.pad(x.reshape(-1), (0, -x.numel() % _TWO_VECTORS))
    return torch.cat([function(part) for part in padded.split(_ONE_THREAD)])[: x.numel()].view(x.shape)
