"""Compare a sparse layer's attention with torch's dense causal attention on whole sequences, in alternating calls."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.experiment import Experiment
from benchmarks.goals import Goal
from benchmarks.model_under_test import Shape
from tirazh.model.attention.block_layout import global_starts
from tirazh.model.attention.full_sequence import window_attention

_GOALS = {2048: 2.5, 1024: None, 512: 1.7}


def measure_attention(shape: Shape, dtypes: Sequence[str], device: str, *, seconds: float = 2.0) -> Experiment:
    """Time one sequence of each length with the heads of `shape`, for about `seconds` per length and dtype."""
    rows: list[tuple[str | int | float, ...]] = []
    goals: list[Goal] = []
    for length in (length for length in _GOALS if length <= shape.num_positions):
        ratios = []
        for dtype in dtypes:
            sparse, dense = _measure(shape, length, dtype, device, seconds)
            ratios.append(statistics.median(d / s for s, d in zip(sparse, dense, strict=True)))
            medians = [1e3 * statistics.median(taken) for taken in (sparse, dense)]
            rows.append((length, dtype, *medians, ratios[-1], len(sparse)))
        goal = _GOALS[length]
        if goal is not None:
            goals.append(Goal(text=f"sparse attention over dense at {length:,} tokens", goal=goal, measured=ratios[0]))
    how = (
        "`model/attention/full_sequence.py` against torch's `scaled_dot_product_attention` with `is_causal`, one "
        f"sequence, {shape.num_heads} heads of {shape.hidden_size // shape.num_heads}. Calls alternate; medians are "
        f"shown. The goals are for {dtypes[0]}."
    )
    columns = ("tokens", "dtype", "sparse, ms", "dense, ms", "dense ÷ sparse", "calls each")
    return Experiment(name="attention", how=how, columns=columns, rows=rows, goals=goals)


def _measure(shape: Shape, length: int, dtype: str, device: str, seconds: float) -> tuple[list[float], list[float]]:
    """Return the seconds of every call: sparse, dense."""
    config = shape.config("alternating")
    size = (1, shape.num_heads, length, config.head_dim)
    kind = {"dtype": getattr(torch, dtype), "device": device}
    q, k, v = (torch.randn(size, **kind) for _ in range(3))
    starts = global_starts(config)
    scale = config.head_dim**-0.5
    calls: tuple[Callable[[], Tensor], Callable[[], Tensor]] = (
        lambda: window_attention(q, k, v, config.sparse_pattern, starts, scale),
        lambda: scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale),
    )
    taken: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for call in calls:
            call()  # warm up
        end = time.perf_counter() + seconds
        while len(taken[0]) < 5 or time.perf_counter() < end:
            for call, seconds_of_call in zip(calls, taken, strict=True):
                seconds_of_call.append(_seconds(call))
    return taken


def _seconds(call: Callable[[], Tensor]) -> float:
    begin = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin
