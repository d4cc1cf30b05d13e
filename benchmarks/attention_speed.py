"""A sparse layer's attention against dense causal attention by torch, on whole sequences, call by call in turn."""

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
    """One sequence of each length, `shape`'s heads; about `seconds` for each length and dtype."""
    rows: list[tuple[str | int | float, ...]] = []
    goals: list[Goal] = []
    for length in (length for length in _GOALS if length <= shape.num_positions):
        ratios = []
        for dtype in dtypes:
            sparse, dense = _measure(shape, length, dtype, device, seconds)
            ratios.append(statistics.median(d / s for s, d in zip(sparse, dense, strict=True)))
            middles = [1e3 * statistics.median(taken) for taken in (sparse, dense)]
            rows.append((length, dtype, *middles, ratios[-1], len(sparse)))
        goal = _GOALS[length]
        if goal is not None:
            goals.append(Goal(text=f"sparse attention over dense at {length:,} tokens", goal=goal, measured=ratios[0]))
    how = (
        f"`model/attention/full_sequence.py` against torch's `scaled_dot_product_attention` with "
        "`is_causal`, one sequence, "
        f"{shape.num_heads} heads of {shape.hidden_size // shape.num_heads}; calls take turns, medians. "
        f"The goals are about {dtypes[0]}."
    )
    columns = ("tokens", "dtype", "sparse, ms", "dense, ms", "dense ÷ sparse", "calls each")
    return Experiment(name="attention", how=how, columns=columns, rows=rows, goals=goals)


def _measure(shape: Shape, length: int, dtype: str, device: str, seconds: float) -> tuple[list[float], list[float]]:
    """Seconds of every call: sparse, dense."""
    config = shape.config("alternating")
    size = (1, shape.num_heads, length, config.head_dim)
    kind = {"dtype": getattr(torch, dtype), "device": device}
    q, k, v = (torch.randn(size, **kind) for _ in range(3))
    starts = global_starts(config)
    scale = config.head_dim**-0.5
    ways = (
        lambda: window_attention(q, k, v, config.sparse_pattern, starts, scale),
        lambda: scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale),
    )
    taken: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for way in ways:
            way()
        end = time.perf_counter() + seconds
        while len(taken[0]) < 5 or time.perf_counter() < end:
            for way, list_of_way in zip(ways, taken, strict=True):
                list_of_way.append(_seconds(way))
    return taken


def _seconds(way: Callable[[], Tensor]) -> float:
    begin = time.perf_counter()
    way()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin
