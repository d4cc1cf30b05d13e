"""What `model/engine/layer_calls.py` needs of a linear layer: its work as calls, prepared once for all steps."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from tirazh.model.kernels.calls import Call


@dataclass(frozen=True, slots=True)
class Workspace:
    """Memory that the calls of all layers use one after the other, for steps of at most `num_rows` rows."""

    num_rows: int
    _held: dict[Hashable, Any] = field(default_factory=dict)

    def tensor(self, purpose: str, *shape: int, dtype: torch.dtype) -> Tensor:
        """Memory that calls of the same purpose share where they need the same shape."""
        found: Tensor = self.shared((purpose, shape, dtype), lambda: torch.empty(*shape, dtype=dtype))
        return found

    def shared(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What the first call of a key made."""
        if key not in self._held:
            self._held[key] = make()
        return self._held[key]


@runtime_checkable
class PreparedLinear(Protocol):
    """A linear layer that runs by calls which are prepared in advance, with the bits that its module gives."""

    in_features: int
    out_features: int

    def has_calls(self, dtype: torch.dtype) -> bool:
        """Whether it takes rows of this dtype."""
        ...

    def prepare(self, x: Tensor, out: Tensor, workspace: Workspace) -> list[Call]:
        """The calls for x [rows, in] into `out` [rows, out]: contiguous, of one dtype, with the workspace's rows. They
        have `set_num_rows`."""
        ...


def has_calls(linear: object, dtype: torch.dtype) -> bool:
    """Whether a module is a `PreparedLinear` that takes rows of this dtype."""
    return isinstance(linear, PreparedLinear) and linear.has_calls(dtype)
