"""Chooses the dtype for `--dtype auto` by a short benchmark on this machine.

CPUs differ: with AVX512-BF16 a bfloat16 matmul is two to three times as fast as a float32 one,
without it several times slower. The probe runs when the first job of a machine is planned (`kernels/known_dtype.py`
keeps the answer); the plan records the answer, and a resumed job uses it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from tirazh.model.layers.packed_linear import can_pack, pack_weight


def resolve_dtype(device: str = "cpu") -> str:
    """Return "float32", "bfloat16" or "float16".

    On a CPU bfloat16 is chosen only if it is at least 1.2 times as fast: for less, the precision of
    float32 is worth more.
    """
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    seconds = {dtype: _matmul_seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return "bfloat16" if seconds[torch.bfloat16] * 1.2 < seconds[torch.float32] else "float32"


def _matmul_seconds(dtype: torch.dtype, repeats: int = 15) -> float:
    """CPU seconds of a matmul of a decode step's shape: the best of `repeats`, on one thread.

    Thread time and the minimum make the result nearly independent of other processes on the
    machine.
    """
    with torch.inference_mode(), _one_thread():
        weight, rows = torch.randn(2048, 1024).to(dtype), torch.randn(32, 1024).to(dtype)
        linear: nn.Module = nn.Linear(1024, 2048, bias=False, dtype=dtype)
        if can_pack(weight):
            linear = pack_weight(weight, None, rows=32)
        best = float("inf")
        for _ in range(repeats):
            begin = time.thread_time()
            linear(rows)
            best = min(best, time.thread_time() - begin)
    return best


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
