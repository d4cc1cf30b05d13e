"""Calls of C kernels whose arguments are prepared in advance, and lists of them that run as one call from Python. Where
torch or Python must run between two kernels, it stands in the list too.

A decode step of a small model runs a hundred kernels of less than a millisecond each. Called one by one from Python,
with a tensor allocated for every result, they take a third longer.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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

    def set_rows(self, num_rows: int) -> None:
        """Let the call work on the first rows of its tensors only; for arguments that have the field `num_rows`."""
        self.arguments.num_rows = num_rows

    def run(self) -> None:
        """Raises MemoryError."""
        if self.function(ctypes.byref(self.arguments), ctypes.c_int(torch.get_num_threads())):
            raise _no_memory(self)


@dataclass(slots=True)
class PythonCall:
    """`function(*tensors)`, of tensors [..., rows, columns]; once `set_rows` was called, of their first rows."""

    function: Callable[..., object]
    tensors: tuple[Tensor, ...]
    _first_rows: tuple[Tensor, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._first_rows = self.tensors

    def set_rows(self, num_rows: int) -> None:
        """Let the call work on the first rows of its tensors only."""
        self._first_rows = tuple(x[..., :num_rows, :] for x in self.tensors)

    def run(self) -> None:
        """Raises what the function raises."""
        self.function(*self._first_rows)


Call = KernelCall | PythonCall


class CallList:
    """Calls that run one after the other; kernels that are neighbours run by one call from Python.

    A kernel's call may be replaced by another one between two runs.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls: list[Any] = list(calls)
        self._entries = (_Entry * len(calls))()
        self._parts: list[tuple[int, int]] = []  # the first index of neighbours, and how many they are
        for is_kernel, group in itertools.groupby(range(len(calls)), lambda i: isinstance(calls[i], KernelCall)):
            indices = list(group)
            self._parts += [(indices[0], len(indices))] if is_kernel else [(index, 1) for index in indices]
        for index, call in enumerate(calls):
            if isinstance(call, KernelCall):
                self[index] = call

    def __setitem__(self, index: int, call: KernelCall) -> None:
        self._calls[index] = call
        entry = self._entries[index]
        entry.function = ctypes.cast(call.function, ctypes.c_void_p).value
        entry.arguments = ctypes.addressof(call.arguments)

    def run(self) -> None:
        """Raises MemoryError, and what functions of Python raise; calls behind the one that failed do not run."""
        kernel = load_kernel("run_calls")
        assert kernel is not None
        for first, count in self._parts:
            if isinstance(self._calls[first], PythonCall):
                self._calls[first].run()
                continue
            entries = ctypes.byref(self._entries, first * ctypes.sizeof(_Entry))
            failed = kernel.run_calls(entries, count, ctypes.c_int(torch.get_num_threads()))
            if failed:
                raise _no_memory(self._calls[first + failed - 1])


class _Entry(ctypes.Structure):
    """The structure `kernel_call` of `run_calls.c`."""

    _fields_ = (("function", ctypes.c_void_p), ("arguments", ctypes.c_void_p))


def address(x: Tensor | None) -> int | None:
    """Where a tensor's elements begin; None for none."""
    return None if x is None else x.data_ptr()


def _no_memory(call: KernelCall) -> MemoryError:
    return MemoryError(f"no memory for the work of the kernel {getattr(call.function, '__name__', call.function)}")
