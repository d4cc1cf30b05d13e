"""A step as one CUDA graph: its shapes and addresses are fixed, so all its kernels are replayed by one call."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class StepGraph:
    """`forward` of tensors of fixed shapes on a GPU, recorded at the first call and replayed at every one.

    `inputs` are the tensors that it will always read; at the first call they must be such that running it does no harm,
    as a step without a row is: it is run once before it is recorded. What a call returns is written over by the
    next, of this graph or another of the same memory pool. `forward` must wait for nothing on the CPU.
    """

    def __init__(self, forward: Callable[..., Tensor], inputs: Sequence[Tensor], pool: Any) -> None:
        self._forward, self._inputs, self._pool = forward, inputs, pool
        self._graph: torch.cuda.CUDAGraph | None = None
        self._out = torch.empty(0)

    def __call__(self, *values: Tensor) -> Tensor:
        """`values` for the inputs, on the CPU."""
        if self._graph is None:
            self._record()
        for held, value in zip(self._inputs, values, strict=True):
            held.copy_(value.pin_memory(), non_blocking=True)
        assert self._graph is not None
        self._graph.replay()
        return self._out

    def _record(self) -> None:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self._forward(*self._inputs)  # libraries choose kernels and take their memory
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with _no_garbage_collected(), torch.cuda.graph(graph, pool=self._pool):
            self._out = self._forward(*self._inputs)
        self._graph = graph


@contextmanager
def _no_garbage_collected() -> Iterator[None]:
    """An older graph must not be freed in the middle of a capture: that would spoil it."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class StepGraphs:
    """The graphs of one model and cache, one for each shape of a step, over the same memory."""

    def __init__(self) -> None:
        self._graphs: dict[Hashable, StepGraph] = {}
        self._pool: Any = torch.cuda.graph_pool_handle()

    def run(self, forward: Callable[..., Tensor], values: Sequence[Tensor], idle: Sequence[Tensor]) -> Tensor:
        """`forward(*values)`, recorded with the `idle` values when none of these shapes has been yet. All on the CPU;
        which `forward` it is, is part of what tells graphs apart."""
        key = (forward, *(value.shape for value in values))
        if key not in self._graphs:
            self._graphs[key] = StepGraph(forward, [value.cuda() for value in idle], self._pool)
        return self._graphs[key](*values)
