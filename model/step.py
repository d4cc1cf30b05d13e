"""One step, that is one forward pass of the engine: the tokens that run, their slots, and the rows
whose logits are read.

Rank 0 schedules steps and sends each to every rank. A step holds plain values only, so it crosses
processes.
Legend: N rows of the step (padded to its fixed shape), R rows whose logits are read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Phase = Literal["prefill", "decode"]
# Stands for a token that the CPU does not know yet (overlap scheduling): the device replaces it by
# the last token that was sampled for the slot.
PLACEHOLDER = -1


@dataclass(frozen=True, slots=True)
class StepRows:
    """Rows of a prefill step, of a decode step, and of the matmul that computes a prefill's logits,
    which needs few."""

    prefill: int
    decode: int
    prefill_logits: int


# The fixed shapes of a job's steps. A matmul's rounding depends on its shape, so they follow the
# type of device only, and nothing that a resume may change. A CPU's kernels are at their best from
# about 64 rows on; a GPU needs many more rows to use all its cores.
ROWS_ON_CPU = StepRows(prefill=512, decode=64, prefill_logits=16)
ROWS_ON_GPU = StepRows(prefill=4096, decode=256, prefill_logits=64)
# Reading the weights of a large model takes as long as computing 128 rows, and the memory left
# holds few more sequences.
ROWS_OF_LARGE_ON_GPU = StepRows(prefill=4096, decode=128, prefill_logits=64)
_LARGE_HIDDEN_SIZE = 4096


def step_rows(device: str, hidden_size: int) -> StepRows:
    """Return the steps' shapes for a model of this hidden size on a device ("cpu", "cuda" and the
    like)."""
    if device.startswith("cpu"):
        return ROWS_ON_CPU
    return ROWS_ON_GPU if hidden_size < _LARGE_HIDDEN_SIZE else ROWS_OF_LARGE_ON_GPU


def chunk_length(start: int, *, window: int, max_length: int) -> int:
    """Return the greatest length of a prompt chunk that begins at token `start` (chunked prefill).

    A chunk ends where its window of the sparse pattern ends. A window longer than `max_length`
    tokens is also cut after every `max_length` of them.
    """
    offset = start % window
    return min(window, (offset // max_length + 1) * max_length) - offset


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows `row` to `row + length` hold tokens `start` to `start + length` of the sequence in
    `slot`.

    With `tree_parents` the tokens are the nodes of a label trie behind the sequence (tree
    attention): node i continues node `tree_parents[i]` of this segment (-1: the sequence's last
    token) and attends to the sequence and its own ancestors only. Their keys and values are not
    cached.
    """

    slot: int
    row: int
    start: int
    length: int
    tree_parents: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class FreshSlot:
    """A sequence starts in `slot`. `uses_prefix`: behind the job's shared prefix; `must_zero`: zero
    the slot first. `fork_of`: it starts as a copy of all that this other slot holds, the prefix included."""

    slot: int
    uses_prefix: bool
    must_zero: bool = False
    fork_of: int | None = None


@dataclass(frozen=True, slots=True)
class NewPrefix:
    """Another shared prefix: its tokens, maybe none, and the rows of the prefill steps that compute it."""

    token_ids: tuple[int, ...]
    prefill_rows: int


@dataclass(frozen=True, slots=True)
class Step:
    """`token_ids` and `positions`: int64 [N]; a decode step's tokens may be `PLACEHOLDER`.
    `logit_rows`: int64 [R], the rows of this step whose logits are read; `hidden_rows`: those whose last
    hidden states are. With `new_prefix` every rank
    computes another shared prefix first; no slot is then in use."""

    phase: Phase
    token_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    segments: tuple[Segment, ...]
    logit_rows: NDArray[np.int64]
    fresh_slots: tuple[FreshSlot, ...] = ()
    new_prefix: NewPrefix | None = None
    hidden_rows: tuple[int, ...] = ()

    def without_padding(self) -> Step:
        """Return the step without the rows behind the last token."""
        end = max(segment.row + segment.length for segment in self.segments)
        return replace(self, token_ids=self.token_ids[:end], positions=self.positions[:end])
