"""Asynchronous copies between the CPU and a device: they do not wait for the work that the device
still has to do."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy `values` from the CPU to a device.

    Work that is put on the device's current stream later sees them.
    """
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


class PendingCopy:
    """A small tensor on its way to the CPU. The constructor starts the copy; `read` waits for it."""

    def __init__(self, values: Tensor) -> None:
        self._values, self._copied = values, None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> list[Any]:
        """The elements, nested as the tensor's dimensions are."""
        values: list[Any] = self.read_array().tolist()
        return values

    def read_array(self) -> NDArray[Any]:
        """The tensor as an array; of a tensor on the CPU it is a view."""
        if self._copied is not None:
            self._copied.synchronize()
        values: NDArray[Any] = self._values.numpy()
        return values
