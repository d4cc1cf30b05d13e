"""Copies between the CPU and a device that do not wait for what the device is still doing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """`values`, which lie on the CPU, on a device; what is put on the device's stream later finds them there."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


class PendingCopy:
    """A small tensor on its way to the CPU: the copy begins here, `read` waits for it."""

    def __init__(self, values: Tensor) -> None:
        self._values, self._copied = values, None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> list[Any]:
        """The numbers, nested as the tensor's dimensions are."""
        if self._copied is not None:
            self._copied.synchronize()
        values: list[Any] = self._values.tolist()
        return values
