"""The channel by which rank 0 sends steps to the other ranks: pickled, one at a time, broadcast
over gloo.

GPU ranks use gloo too: steps are small and made on the CPU, and a process group of their own has
its own short timeout.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Generic, TypeVar, cast

import torch
import torch.distributed as dist

from tirazh.errors import ReplicaError

StepT = TypeVar("StepT")
OutputT = TypeVar("OutputT")

# One broadcast carries a step of up to this many bytes (a decode step of some hundred slots), a
# longer step takes two.
_FIRST_BYTES = 8192
_LENGTH_BYTES = 8


class StepChannel(Generic[StepT]):
    """A one-way channel from rank 0 to all other ranks. All ranks create theirs at the same time."""

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        self._first = torch.zeros(_LENGTH_BYTES + _FIRST_BYTES, dtype=torch.uint8)

    def send(self, step: StepT | None) -> None:
        """Broadcast a step; None is a heartbeat that asks for nothing.

        Raises ReplicaError when a rank has died or receives nothing within the timeout.
        """
        data = pickle.dumps(step, protocol=pickle.HIGHEST_PROTOCOL)
        head = len(data).to_bytes(_LENGTH_BYTES, "little") + data[:_FIRST_BYTES]
        self._first[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
        self._broadcast(self._first, "the other ranks received no step")
        if len(data) > _FIRST_BYTES:
            rest = torch.frombuffer(bytearray(data[_FIRST_BYTES:]), dtype=torch.uint8)
            self._broadcast(rest, "the other ranks received only half of a step")

    def receive(self) -> StepT | None:
        """Wait for rank 0's next step. Raises ReplicaError when rank 0 has died or sends nothing
        within the timeout."""
        self._broadcast(self._first, "rank 0 sent no step")
        first = self._first.numpy().tobytes()
        length = int.from_bytes(first[:_LENGTH_BYTES], "little")
        data = first[_LENGTH_BYTES : _LENGTH_BYTES + length]
        if length > _FIRST_BYTES:
            rest = torch.empty(length - _FIRST_BYTES, dtype=torch.uint8)
            self._broadcast(rest, "rank 0 sent only half of a step")
            data += rest.numpy().tobytes()
        return cast("StepT | None", pickle.loads(data))

    def _broadcast(self, tensor: torch.Tensor, problem: str) -> None:
        try:
            dist.broadcast(tensor, 0, group=self._group)
        except RuntimeError as error:
            is_late = "timed out" in str(error).lower()
            detail = f"for {self._timeout_s:g} s" if is_late else "because a connection was lost"
            raise ReplicaError(f"{problem} {detail}") from error


def on_all_ranks(execute: Callable[[StepT], OutputT], channel: StepChannel[StepT]) -> Callable[[StepT], OutputT]:
    """Return a function for rank 0 that sends a step to the other ranks, then executes it and
    returns its output."""

    def execute_on_all_ranks(step: StepT) -> OutputT:
        channel.send(step)
        return execute(step)

    return execute_on_all_ranks


def follow(execute: Callable[[StepT], object], channel: StepChannel[StepT]) -> None:
    """Execute the steps that rank 0 sends, without end. Raises ReplicaError when rank 0 has died."""
    while True:
        step = channel.receive()
        if step is not None:
            execute(step)
