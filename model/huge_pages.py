"""Memory in huge pages, for weights that every step reads as a whole.

With pages of 4 KiB a virtual machine reads memory at about half its speed: the address of each page is looked up in two
tables, and the processor fetches nothing ahead across the end of a page. Linux gives huge pages of 2 MiB to programs
that ask for them (`madvise`, Documentation/admin-guide/mm/transhuge.rst); elsewhere this is ordinary memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import threading
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

HUGE_PAGE = 1 << 21  # bytes
_SHARED = 32 * HUGE_PAGE  # of a mapping that small tensors share, so that little of their last page is left over
_UNIT = 64  # bytes of a cache line, where tensors begin

_lock = threading.Lock()
_shared: weakref.ref[mmap.mmap] | None = None  # the newest such mapping, unless its tensors are gone
_next = 0  # its first byte that no tensor has


def empty_in_huge_pages(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor on the CPU. It takes memory when it is written, in whole huge pages.

    Small tensors share mappings of 64 MiB; one is freed with the last of its tensors.
    """
    global _shared, _next
    num_bytes = math.prod(shape) * dtype.itemsize
    if not num_bytes:
        return torch.empty(*shape, dtype=dtype)
    if num_bytes > _SHARED // 2:
        mapping, start = _map(num_bytes)
    else:
        with _lock:
            held = None if _shared is None else _shared()
            if held is None or _next + num_bytes > len(held):
                held, _next = _map(_SHARED)
                _shared = weakref.ref(held)
            mapping, start = held, _next
            _next += -(-num_bytes // _UNIT) * _UNIT
    whole = torch.frombuffer(mapping, dtype=torch.uint8, offset=start, count=num_bytes)
    return whole.view(dtype).view(tuple(shape))


def _map(num_bytes: int) -> tuple[mmap.mmap, int]:
    """A mapping with space for so many bytes behind the place where its first huge page begins, and that place."""
    mapping = mmap.mmap(-1, num_bytes + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system without huge pages
            mapping.madvise(mmap.MADV_HUGEPAGE)
    first = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    return mapping, -first % HUGE_PAGE
