"""Calls of C kernels whose arguments are prepared in advance, and lists of them that run as one call from Python. Where
torch or Python must run between two kernels, it stands in the list too.

A decode step of a small model runs a hundred kernels of less than a millisecond each. Called one by one from Python,
with a tensor allocated for every result, they take a third longer, because all threads but one wait for Python.
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

    `tensors` are those that the arguments pointed to when the call was prepared. Whoever sets others later keeps them
    until the call has run.
    """

    function: Any
    arguments: Any  # a ctypes.Structure
    tensors: tuple[Tensor | None, ...]

    def set_num_rows(self, num_rows: int) -> None:
        """Let the call work on the first rows of its tensors only; for arguments that have the field `num_rows`."""
        self.arguments.num_rows = num_rows

    def run(self) -> None:
        """Raises MemoryError."""
        if self.function(ctypes.byref(self.arguments), ctypes.c_int(torch.get_num_threads())):
            raise _no_memory(self)


@dataclass(slots=True)
class PythonCall:
    """`function(*tensors)`, of tensors [..., rows, columns]; once `set_num_rows` was called, of their first rows."""

    function: Callable[..., object]
    tensors: tuple[Tensor, ...]
    _first_rows: tuple[Tensor, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._first_rows = self.tensors

    def set_num_rows(self, num_rows: int) -> None:
        """Let the call work on the first rows of its tensors only."""
        self._first_rows = tuple(x[..., :num_rows, :] for x in self.tensors)

    def run(self) -> None:
        """Raises what the function raises."""
        self.function(*self._first_rows)


Call = KernelCall | PythonCall


class CallList:
    """Calls that run one after the other; kernels that are neighbours run by one call from Python."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._parts: list[_Kernels | PythonCall] = []
        for is_kernel, group in itertools.groupby(calls, lambda call: isinstance(call, KernelCall)):
            some: list[Any] = list(group)
            self._parts += [_Kernels(some)] if is_kernel else some

    def run(self, on_progress: Callable[[], object] = lambda: None) -> None:
        """Run the calls, and `on_progress` behind those of Python, at the end, and whenever kernels have taken another
        50 milliseconds.

        Raises MemoryError, and what functions of Python raise; calls behind the one that failed do not run.
        """
        for part in self._parts:
            if isinstance(part, PythonCall):
                part.run()
                on_progress()
            else:
                part.run(on_progress)


class _Kernels:
    """Kernels that run one after the other."""

    def __init__(self, calls: Sequence[KernelCall]) -> None:
        self._calls = tuple(calls)
        self._entries = (_Entry * len(calls))()
        for entry, call in zip(self._entries, calls, strict=True):
            entry.function = ctypes.cast(call.function, ctypes.c_void_p).value
            entry.arguments = ctypes.addressof(call.arguments)

    def run(self, on_progress: Callable[[], object]) -> None:
        kernel = load_kernel("run_calls")
        assert kernel is not None
        finished, has_failed, num_threads = 0, ctypes.c_int(0), ctypes.c_int(torch.get_num_threads())
        while finished < len(self._calls):
            remaining = ctypes.byref(self._entries, finished * ctypes.sizeof(_Entry)), len(self._calls) - finished
            finished += kernel.run_calls(*remaining, _INTERVAL_S, num_threads, ctypes.byref(has_failed))
            if has_failed.value:
                raise _no_memory(self._calls[finished])
            on_progress()


_INTERVAL_S = ctypes.c_double(0.05)


class _Entry(ctypes.Structure):
    """The structure `kernel_call` of `run_calls.c`."""

    _fields_ = (("function", ctypes.c_void_p), ("arguments", ctypes.c_void_p))


def address(x: Tensor | None) -> int | None:
    """Where a tensor's elements begin; None for none."""
    return None if x is None else x.data_ptr()


def _no_memory(call: KernelCall) -> MemoryError:
    return MemoryError(f"no memory for the work of the kernel {getattr(call.function, '__name__', call.function)}")
