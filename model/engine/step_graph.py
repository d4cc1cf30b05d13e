"""Runs a step as one CUDA graph: its shapes and addresses are fixed, so one call launches all its
kernels.

With tensor parallelism a graph holds the ranks' sums over NCCL too, and all ranks capture and replay the same graphs
in the same order. A graph is replayed only after all ranks have captured it (`all_capture`): a replay on some of them
would wait for the sums of the others for ever.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Forward = Callable[..., Tensor]


class StepGraph:
    """A `forward` of tensors of fixed shapes on a GPU, which `prepare` and `capture` make a graph that every call
    replays.

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
        assert self._graph is not None, "the graph is not captured"
        for held, value in zip(self._inputs, values, strict=True):
            held.copy_(value.pin_memory(), non_blocking=True)
        self._graph.replay()
        return self._out

    def prepare(self) -> None:
        """Run `forward` once, as before a capture: libraries choose kernels, allocate their workspaces and connect the
        ranks."""
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            self._forward(*self._inputs)
        torch.cuda.current_stream().wait_stream(side_stream)

    def capture(self) -> None:
        """Capture the graph; nothing runs. Raises RuntimeError where that fails."""
        graph = torch.cuda.CUDAGraph()
        # Calls of other threads, such as the one with which torch watches NCCL, do not make the capture invalid.
        capturing = torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local")
        with _garbage_collection_off(), capturing:
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


def all_capture(capture: Callable[[], object], agree: Callable[[bool], bool]) -> bool:
    """Call `capture`, and return whether it succeeds on every rank; `agree` says whether a value is true on all ranks.

    All ranks call this together, so none replays a graph that another one lacks. That covers a capture that raises
    RuntimeError: an operation or a library that cannot be captured, or too little memory. Not covered are a rank that
    dies or stays inside NCCL during the capture: its partners wait until the replica ends them, as in any other
    step. Nor is an error that leaves the GPU unusable: the next call on that rank raises it, and the replica ends.
    """
    try:
        capture()
    except RuntimeError as error:
        logger.warning("a CUDA graph cannot be captured here: %s", error)
        return agree(False)
    return agree(True)


class StepGraphs:
    """The graphs of one model and cache, one per phase and shape of a step, in one memory pool.

    `agree` is that of `all_capture`.
    """

    def __init__(self, agree: Callable[[bool], bool]) -> None:
        self._agree = agree
        self._graphs: dict[Hashable, StepGraph] = {}
        self._pool: Any = torch.cuda.graph_pool_handle()

    def run(self, phase: str, forward: Forward, values: Sequence[Tensor], idle: Sequence[Tensor]) -> Tensor | None:
        """Run `forward(*values)`; at the first step of a phase and shape it is captured with the
        `idle` values. Returns None, and has run no row, where some rank cannot capture it.

        All values are on the CPU. `forward` must be the same function for all steps of a phase.
        """
        key = (phase, *(value.shape for value in values))
        if key not in self._graphs:
            graph = StepGraph(forward, [value.cuda() for value in idle], self._pool)
            graph.prepare()
            if not all_capture(graph.capture, self._agree):
                return None
            self._graphs[key] = graph
        return self._graphs[key](*values)
