"""Calls of C kernels whose arguments are prepared in advance, and lists of them that run as one call from Python.

A decode step of a small model runs a hundred kernels of less than a millisecond each. Called one by one from Python,
with a tensor allocated for every result, they take a third longer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tirazh.model.kernels.build import load_kernel


@dataclass(frozen=True, slots=True)
class KernelCall:
    """`function(arguments, num_threads)`, which returns 0, or something else where there is no memory.

    `tensors` are those that the arguments point to.
    """

    function: Any
    arguments: ctypes.Structure
    tensors: tuple[Tensor | None, ...]

    def run(self) -> None:
        """Raises MemoryError."""
        if self.function(ctypes.byref(self.arguments), ctypes.c_int(torch.get_num_threads())):
            raise _no_memory(self)


class CallList:
    """Calls that run one after the other. A call may be replaced between two runs."""

    def __init__(self, calls: Sequence[KernelCall]) -> None:
        self._calls = list(calls)
        self._entries = (_Entry * len(calls))()
        for index, call in enumerate(calls):
            self[index] = call

    def __setitem__(self, index: int, call: KernelCall) -> None:
        self._calls[index] = call
        entry = self._entries[index]
        entry.function = ctypes.cast(call.function, ctypes.c_void_p).value
        entry.arguments = ctypes.addressof(call.arguments)

    def run(self) -> None:
        """Raises MemoryError; calls behind the one that failed do not run."""
        kernel = load_kernel("run_calls")
        assert kernel is not None
        failed = kernel.run_calls(self._entries, len(self._calls), ctypes.c_int(torch.get_num_threads()))
        if failed:
            raise _no_memory(self._calls[failed - 1])


class _Entry(ctypes.Structure):
    """The structure `kernel_call` of `run_calls.c`."""

    _fields_ = (("function", ctypes.c_void_p), ("arguments", ctypes.c_void_p))


def address(x: Tensor | None) -> int | None:
    """Where a tensor's elements begin; None for none."""
    return None if x is None else x.data_ptr()


def _no_memory(call: KernelCall) -> MemoryError:
    return MemoryError(f"no memory for the work of the kernel {getattr(call.function, '__name__', call.function)}")
