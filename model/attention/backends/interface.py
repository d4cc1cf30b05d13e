"""What an attention backend is.

Legend: N rows of the step, H heads, K key/value heads, D head dim.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from tirazh.model.attention.kv_cache import KVCache, PrefixCache
from tirazh.model.attention.step_layout import StepLayout
from tirazh.model.kernels.calls import KernelCall
from tirazh.model.step import Phase


@dataclass(frozen=True, slots=True)
class HeadType:
    """The properties of attention heads that decide which kernels take them."""

    dtype: torch.dtype
    device: torch.device
    head_dim: int

    @classmethod
    def of(cls, x: Tensor) -> Self:
        """The type of heads [..., D]."""
        return cls(x.dtype, x.device, x.shape[-1])


class StepAttention(Protocol):
    """The attention of one step; called once per layer."""

    def attend(self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float) -> Tensor:
        """Put the step's keys and values into the cache of `layer` and attend.

        Returns [N, H, D] in the dtype of the queries. Rows of no segment (padding, idle) hold
        arbitrary values.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class StepForm:
    """What decides which calls a step's attention makes, and in which memory: everything but the rows of the step.

    `prefix`: the shared prefix, if a row of the step has it.
    """

    cache: KVCache
    phase: Phase
    prefix: PrefixCache | None


class PreparedAttention(ABC):
    """The attention of a step by C kernels, whose calls are prepared once for all steps of a form.

    A class, because every step asks whether it has one: `isinstance` of a protocol takes a fifth of a millisecond when
    the weights of the model have just gone through the processor's caches.
    """

    form: StepForm

    @abstractmethod
    def attend(self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float) -> Tensor:
        """As in `StepAttention`."""

    @abstractmethod
    def calls(
        self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float, out_NHD: Tensor
    ) -> list[KernelCall]:
        """Prepare what `attend` does in a layer, for steps of at most N rows. `out_NHD` gets the results.

        Queries, keys and values, whose D is contiguous, are read when the calls run. For heads that the kernels of both
        phases take.
        """

    @abstractmethod
    def set_step(self, layer: int, calls: Sequence[KernelCall]) -> None:
        """Make calls that a step of the same form has prepared for a layer those of this step.

        What is not a kernel is done now: after it, the cache must not change before the calls run.
        """


class AttentionBackend(Protocol):
    """One implementation of attention over the KV cache. Stateless."""

    def supports(self, heads: HeadType, phase: Phase) -> bool:
        """Whether this backend takes such heads on this machine."""
        ...

    def build(self, layout: StepLayout, cache: KVCache) -> StepAttention:
        """The attention of a step whose tokens have been counted into the cache."""
        ...


@dataclass(frozen=True, slots=True)
class GraphInputs:
    """The tensors by which one step differs from another of the same shape, on the CPU.

    `values` are those of the step, `idle` those of a step of the same shapes in which no row runs.
    """

    values: tuple[Tensor, ...]
    idle: tuple[Tensor, ...]


@runtime_checkable
class CapturableBackend(AttentionBackend, Protocol):
    """A backend whose steps can be captured in CUDA graphs: it waits for nothing on the CPU."""

    def graph_inputs(self, layout: StepLayout, cache: KVCache) -> GraphInputs:
        """The inputs of a step, padded so that few graphs hold all steps."""
        ...

    def bind(self, cache: KVCache, phase: Phase, inputs: Sequence[Tensor]) -> StepAttention:
        """The attention of whatever step the `inputs` describe: those of `graph_inputs`, but on the
        device."""
        ...

    def row_slots(self, inputs: Sequence[Tensor]) -> Tensor:
        """The slot of every row of a decode step, int [N], on the device of its `inputs`; -1 where
        the row is idle."""
        ...
