"""How rank 0 tells the other ranks what to compute: one pickled step plan at a time, broadcast over gloo.

Also on GPUs: plans are small and made on the CPU, and their own process group keeps a tight timeout of its own.
"""

from __future__ import annotations

import pickle
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist

from tirazh.errors import ReplicaError

# One broadcast carries a plan of up to this many bytes (a decode step of some hundred slots), a longer one takes two.
_FIRST_BYTES = 8192
_LENGTH_BYTES = 8


class Runner(Protocol):
    """What executes a step plan on one rank."""

    def execute(self, step: Any) -> Any: ...


class StepChannel:
    """A one-way channel from rank 0 to all other ranks. Every rank makes its own at the same time."""

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        self._first = torch.zeros(_LENGTH_BYTES + _FIRST_BYTES, dtype=torch.uint8)

    def send(self, plan: Any) -> None:
        """Broadcast a plan (None: nothing to do, only a sign of life). Raises ReplicaError when a rank is gone or
        takes none for too long."""
        data = pickle.dumps(plan, protocol=pickle.HIGHEST_PROTOCOL)
        head = len(data).to_bytes(_LENGTH_BYTES, "little") + data[:_FIRST_BYTES]
        self._first[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
        self._broadcast(self._first, "the other ranks took no step plan")
        if len(data) > _FIRST_BYTES:
            rest = torch.frombuffer(bytearray(data[_FIRST_BYTES:]), dtype=torch.uint8)
            self._broadcast(rest, "the other ranks took only half a step plan")

    def receive(self) -> Any:
        """Wait for rank 0's next plan. Raises ReplicaError when rank 0 is gone or silent for too long."""
        self._broadcast(self._first, "rank 0 sent no step plan")
        first = self._first.numpy().tobytes()
        length = int.from_bytes(first[:_LENGTH_BYTES], "little")
        data = first[_LENGTH_BYTES : _LENGTH_BYTES + length]
        if length > _FIRST_BYTES:
            rest = torch.empty(length - _FIRST_BYTES, dtype=torch.uint8)
            self._broadcast(rest, "rank 0 sent only half a step plan")
            data += rest.numpy().tobytes()
        return pickle.loads(data)

    def _broadcast(self, tensor: torch.Tensor, problem: str) -> None:
        try:
            dist.broadcast(tensor, 0, group=self._group)
        except RuntimeError as error:
            is_late = "timed out" in str(error).lower()
            detail = f"for {self._timeout_s:g} s" if is_late else "because a connection was lost"
            raise ReplicaError(f"{problem} {detail}") from error


class LeadRunner:
    """Rank 0's runner: tells the others first, then computes its own share."""

    def __init__(self, runner: Runner, channel: StepChannel) -> None:
        self._runner = runner
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def execute(self, step: Any) -> Any:
        self._channel.send(step)
        return self._runner.execute(step)


def follow(runner: Runner, channel: StepChannel) -> None:
    """Execute rank 0's plans, for ever. Raises ReplicaError when rank 0 is gone."""
    while True:
        step = channel.receive()
        if step is not None:
            runner.execute(step)
