"""Compute how fast a workload could be: its arithmetic and memory traffic, divided by the machine's measured rates.

Prefill is bound by arithmetic; decode by arithmetic or by reading weights and cache, whichever takes longer. With
hidden size h, L layers, vocabulary V, and G global tokens of every closed window:

    a token's matmuls         2 · 12 h² L
    a token's attention       4 h · keys, in every layer; keys = position + 1 (dense) or G · closed windows + open part
    a token's logits          2 h V, only where they are read
    a decode step's reading   the weights once, and keys and values of every sequence in it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.ceilings import Ceiling
from benchmarks.model_under_test import Mode, Shape
from benchmarks.workloads import Tokens, Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Floating-point operations and bytes that every implementation of the workload needs at least."""

    prefill_flops: float
    decode_flops: float
    decode_bytes: float

    def seconds(self, ceiling: Ceiling) -> float:
        """Return the shortest time on a machine with this ceiling."""
        decode = max(self.decode_flops / ceiling.flops, self.decode_bytes / ceiling.bytes_per_second)
        return self.prefill_flops / ceiling.flops + decode


def least_work(workload: Workload, shape: Shape, mode: Mode, *, slots: int, element_size: int) -> Work:
    """Return the least work: no padding; what prompts begin with in common, a shared prefix and the common beginnings
    of labels are computed once."""
    count = _Count(shape, mode)
    if workload.kind == "labels":
        return Work(prefill_flops=_label_flops(workload, count), decode_flops=0, decode_bytes=0)
    prefill = decode = kv_values = 0.0
    before: Tokens = ()
    for row in sorted(workload.rows, key=lambda row: row.prompt):
        length, made = len(row.prompt), row.num_new - 1  # the first token comes from the prompt's pass
        if row.prompt != before:
            prefill += count.flops(_num_common(before, row.prompt), length) + count.logits
        before = row.prompt
        decode += count.flops(length, length + made) + made * count.logits
        kv_values += 2 * shape.hidden_size * count.keys(length, length + made)
    num_steps = -(-sum(row.num_new - 1 for row in workload.rows) // slots)
    decode_bytes = element_size * (num_steps * count.num_weights + kv_values)
    return Work(prefill_flops=prefill, decode_flops=decode, decode_bytes=decode_bytes)


def _num_common(first: Tokens, second: Tokens) -> int:
    """Return how many tokens both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))


def work_of_rows(workload: Workload, shape: Shape, mode: Mode) -> float:
    """Return the quantity by which a sample's seconds are scaled to all rows.

    It is the least number of floating-point operations; where labels are scored every row counts the same.
    """
    if workload.kind == "labels":
        return len(workload.rows)
    work = least_work(workload, shape, mode, slots=1, element_size=4)
    return work.prefill_flops + work.decode_flops


def forwards_flops(workload: Workload, shape: Shape, mode: Mode) -> float:
    """Return the operations of one forward per row and label, each with the whole prompt."""
    count, total = _Count(shape, mode), 0.0
    for row in workload.rows:
        for label in workload.labels:
            total += count.flops(0, len(row.prompt) + len(label) - 1) + len(label) * count.logits
    return total


def _label_flops(workload: Workload, count: _Count) -> float:
    depths = [len(beginning) - 1 for beginning in _beginnings(workload.labels)]
    num_prefix = len(workload.prefix)
    total = count.flops(0, num_prefix)
    for row in workload.rows:
        end = len(row.prompt)
        total += count.flops(num_prefix, end) + (1 + len(depths)) * count.logits
        total += sum(count.flops(end + depth, end + depth + 1) for depth in depths)
    return total


def _beginnings(labels: Sequence[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """Return the label beginnings that must be computed, each once. A label's last token needs no forward."""
    return {label[:end] for label in labels for end in range(1, len(label))}


class _Count:
    """Operations of tokens at given positions of a sequence, for one shape and mode."""

    def __init__(self, shape: Shape, mode: Mode) -> None:
        config = shape.config(mode)
        positions = np.arange(shape.num_positions)
        window, kept = config.sparse_pattern.window_size, config.sparse_pattern.global_size
        dense, sparse = positions + 1, positions // window * kept + positions % window + 1
        num_sparse = sum(map(config.is_sparse_layer, range(shape.num_layers)))
        keys = num_sparse * sparse + (shape.num_layers - num_sparse) * dense
        self._keys_before = np.concatenate([[0], np.cumsum(keys)])
        self._hidden_size = shape.hidden_size
        self._block_weights = 12 * shape.hidden_size**2 * shape.num_layers
        self.logits = 2 * shape.hidden_size * shape.vocab_size
        self.num_weights = self._block_weights + shape.hidden_size * shape.vocab_size

    def keys(self, start: int, stop: int) -> float:
        """Return the keys that tokens at positions `start` to `stop` attend to, summed over all layers."""
        return float(self._keys_before[stop] - self._keys_before[start])

    def flops(self, start: int, stop: int) -> float:
        """Return the operations of positions `start` to `stop` without their logits."""
        return 2 * self._block_weights * (stop - start) + 4 * self._hidden_size * self.keys(start, stop)
