"""Measure the KV cache: a sparse layer against the minimum of its pattern, and the slots that a fixed memory holds."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.experiment import Experiment
from benchmarks.goals import Goal
from benchmarks.model_under_test import Mode, Shape, empty_model
from tirazh.model.attention.block_layout import build_layout
from tirazh.model.attention.kv_cache import KVCache
from tirazh.model.engine.runner import layer_shapes
from tirazh.model.step import FreshSlot

_GOALS = {2048: 1.65, 1024: 1.55, 512: 1.45}
_DENSE_SLOTS = 256  # the fixed memory is what this many slots of the dense model take


def measure_cache(shape: Shape) -> Experiment:
    """Count the bytes of caches that are really allocated. This takes a negligible time."""
    rows: list[tuple[str | int | float, ...]] = []
    goals = []
    for length in (length for length in _GOALS if length <= shape.num_positions):
        taken = {mode: slot_bytes(shape, mode, length) for mode in ("dense", "alternating")}
        budget = _DENSE_SLOTS * taken["dense"]
        slots = budget // taken["alternating"]
        rows.append((length, budget / 2**30, _DENSE_SLOTS, slots, slots / _DENSE_SLOTS))
        text = f"slots of {length:,} tokens in the same memory, alternating over dense"
        goals.append(Goal(text=text, goal=_GOALS[length], measured=slots / _DENSE_SLOTS))
    lengths = np.arange(1, shape.num_positions + 1)
    over = cached_tokens(shape) - least_tokens(shape)
    is_least = (over >= 0) & (over <= shape.config("alternating").sparse_pattern.block_size)
    text = f"of {len(lengths):,} lengths, those at which a sparse layer caches the least, within one block"
    goals.append(Goal(text=text, goal=len(lengths), measured=int(is_least.sum())))
    how = (
        "float32, bytes of the tensors that `model/attention/kv_cache.py` makes for one slot. The least a sparse layer "
        "can cache is counted on the block layout: every token that this or a later query of the head may still see. "
        f"At every length from 1 to {len(lengths):,} the cache holds at most {over.max()} tokens a head more."
    )
    columns = ("tokens of a slot", "memory, GiB", "dense slots", "alternating slots", "ratio")
    return Experiment(name="cache", how=how, columns=columns, rows=rows, goals=goals)


def slot_bytes(shape: Shape, mode: Mode, length: int) -> int:
    """Return the bytes of keys and values that the cache allocates for one slot of `length` tokens."""
    return sum(layer.k.nbytes + layer.v.nbytes for layer in _cache(shape, mode, length).layers)


def cached_tokens(shape: Shape) -> NDArray[np.int64]:
    """Return the tokens per head in a sparse layer's cache as a sequence grows, for every length from 1."""
    cache = _cache(shape, "alternating", shape.num_positions)
    cache.start([FreshSlot(0, uses_prefix=False)])
    counts = []
    for _ in range(shape.num_positions):
        cache.advance(0, 1)
        counts.append(cache.num_retained(0) + cache.num_open(0))
    return np.array(counts)


def least_tokens(shape: Shape) -> NDArray[np.int64]:
    """Return the tokens that the last query or a later one can still see, for every length from 1.

    The maximum over the heads is counted, from the block layout.
    """
    config = shape.config("alternating")
    layout_HMM = build_layout(config, shape.num_positions)
    size, num_blocks = config.sparse_pattern.block_size, layout_HMM.shape[1]
    last_row_HM = num_blocks - 1 - layout_HMM[:, ::-1].argmax(1)  # the last block of queries that sees a block of keys
    last_query_HT = ((last_row_HM + 1) * size - 1).repeat(size, axis=1)[:, : shape.num_positions]
    lengths = np.arange(1, shape.num_positions + 1)
    tokens = np.arange(shape.num_positions)
    counts_LH = [((last_query_HT >= n - 1) & (tokens < n)).sum(1) for n in lengths]
    most_L: NDArray[np.int64] = np.max(counts_LH, axis=1)
    return most_L


def _cache(shape: Shape, mode: Mode, length: int) -> KVCache:
    shapes = layer_shapes(empty_model(shape, mode))
    return KVCache(shapes, num_slots=1, max_length=length, dtype=torch.float32, device=torch.device("cpu"))
