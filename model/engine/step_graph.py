"""Runs a step as one CUDA graph: its shapes and addresses are fixed, so one call launches all its
kernels."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Forward = Callable[..., Tensor]


class StepGraph:
    """A `forward` of tensors of fixed shapes on a GPU, captured at the first call and replayed at
    every call.

    The graph always reads `inputs`, which a call overwrites. Their first values must be those of an
    idle step, in which no row runs: `forward` is run once before it is captured, and must do no
    harm. `forward` must wait for nothing on the CPU. The result of a call is overwritten by the
    next call of any graph of the same memory pool.
    """

    def __init__(self, forward: Forward, inputs: Sequence[Tensor], pool: Any) -> None:
        self._forward, self._inputs, self._pool = forward, inputs, pool
        self._graph: torch.cuda.CUDAGraph | None = None
        self._out = torch.empty(0)

    def __call__(self, *values: Tensor) -> Tensor:
        """Copy `values`, which are on the CPU, to the inputs and replay the graph."""
        if self._graph is None:
            self._capture()
        for held, value in zip(self._inputs, values, strict=True):
            held.copy_(value.pin_memory(), non_blocking=True)
        assert self._graph is not None
        self._graph.replay()
        return self._out

    def _capture(self) -> None:
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            self._forward(*self._inputs)  # a warm-up: libraries choose kernels and allocate their workspaces
        torch.cuda.current_stream().wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with _garbage_collection_off(), torch.cuda.graph(graph, pool=self._pool):
            self._out = self._forward(*self._inputs)
        self._graph = graph


@contextmanager
def _garbage_collection_off() -> Iterator[None]:
    """No garbage collection inside: freeing an older graph during a capture makes the capture
    invalid."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class StepGraphs:
    """The graphs of one model and cache, one per phase and shape of a step, in one memory pool."""

    def __init__(self) -> None:
        self._graphs: dict[Hashable, StepGraph] = {}
        self._pool: Any = torch.cuda.graph_pool_handle()

    def run(self, phase: str, forward: Forward, values: Sequence[Tensor], idle: Sequence[Tensor]) -> Tensor:
        """Run `forward(*values)`; at the first step of a phase and shape it is captured with the
        `idle` values.

        All values are on the CPU. `forward` must be the same function for all steps of a phase.
        """
        key = (phase, *(value.shape for value in values))
        if key not in self._graphs:
            self._graphs[key] = StepGraph(forward, [value.cuda() for value in idle], self._pool)
        return self._graphs[key](*values)
