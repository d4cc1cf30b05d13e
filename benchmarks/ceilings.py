"""Measure what this machine can do at best: the matmul rate of a dtype and the memory bandwidth.

Both are measured before and after every turn of a peer, because cores that are shared with other virtual machines
may multiply twice as fast in one second as in the next.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tirazh.model.layers.packed_linear import PackedLinear, can_pack, own_kernel

# Rows, inputs and outputs of the matmuls that are timed; the fastest counts. A GPU needs large ones to be full.
_CPU_MATMULS = ((256, 768, 3072), (512, 1024, 4096), (1024, 3072, 768))
_GPU_MATMULS = ((8192, 8192, 8192), (4096, 5120, 20480), (8192, 2048, 8192))
_DECODE_ROWS = 32
_COPIED_BYTES = {"cpu": 2**29, "cuda": 2**32}  # far larger than any CPU cache


@dataclass(frozen=True, kw_only=True, slots=True)
class Ceiling:
    """The best rates that were measured. `decode_flops` is the rate of a matmul of 32 rows."""

    dtype: str
    flops: float
    decode_flops: float
    bytes_per_second: float


def measure_ceiling(dtype: str, device: str, *, seconds: float = 2.0) -> Ceiling:
    """Time matmuls, a copy and a sum for about `seconds` in all.

    The copy's bytes count twice, because they are read and written.
    """
    matmuls = _GPU_MATMULS if device == "cuda" else _CPU_MATMULS
    share = seconds / (len(matmuls) + 3)
    with torch.inference_mode():
        rates = [_matmul_rate(size, dtype, device, share) for size in matmuls]
        decode_rate = _matmul_rate((_DECODE_ROWS, *matmuls[1][1:]), dtype, device, share)
        source, target = _host_buffers() if device == "cpu" else _buffers(device)
        copied = 2 * source.nbytes / _best_seconds(lambda: target.copy_(source), share)
        read = source.nbytes / _best_seconds(source.sum, share)
    return Ceiling(dtype=dtype, flops=max(rates), decode_flops=decode_rate, bytes_per_second=max(copied, read))


def _buffers(device: str) -> tuple[Tensor, Tensor]:
    source = torch.ones(_COPIED_BYTES[device] // 4, device=device)
    return source, torch.zeros_like(source)


@functools.cache
def _host_buffers() -> tuple[Tensor, Tensor]:
    """Cached, because allocating a gigabyte costs more than reading it. On a GPU the peers need the memory."""
    return _buffers("cpu")


def mean_of(ceilings: Sequence[Ceiling]) -> Ceiling:
    """Return the mean of several measurements at one dtype."""
    return Ceiling(
        dtype=ceilings[0].dtype,
        flops=statistics.fmean(c.flops for c in ceilings),
        decode_flops=statistics.fmean(c.decode_flops for c in ceilings),
        bytes_per_second=statistics.fmean(c.bytes_per_second for c in ceilings),
    )


def _matmul_rate(size: tuple[int, int, int], dtype: str, device: str, seconds: float) -> float:
    num_rows, num_in, num_out = size
    kind = {"dtype": getattr(torch, dtype), "device": device}
    rows, weight = torch.randn(num_rows, num_in, **kind), torch.randn(num_out, num_in, **kind)
    matmuls: list[Callable[[], Tensor]] = [lambda: torch.nn.functional.linear(rows, weight)]
    if device == "cpu" and can_pack(weight):
        # Weights that are packed for the number of rows, as torch.compile packs them, are faster than plain ones.
        packed = PackedLinear(weight, None, rows=num_rows)
        matmuls.append(lambda: packed(rows))
    own_kind = own_kernel(weight)
    if own_kind is not None:
        own = own_kind(weight, None)
        matmuls.append(lambda: own(rows))
    fastest = min(_best_seconds(matmul, seconds / len(matmuls)) for matmul in matmuls)
    return 2 * num_rows * num_in * num_out / fastest


def _best_seconds(work: Callable[[], Tensor], seconds: float) -> float:
    """Return the median of the faster half of the calls, because interference only ever adds time."""
    taken: list[float] = []
    end = time.perf_counter() + seconds
    work()
    while len(taken) < 2 or time.perf_counter() < end:
        begin = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begin)
    return statistics.median(sorted(taken)[: (len(taken) + 1) // 2])
