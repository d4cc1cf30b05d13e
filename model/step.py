"""One forward of the engine, planned: which tokens run, in whose slots, and whose logits are wanted.

Made by `engine/batch_engine.py` on rank 0, sent to every rank, executed by `engine/runner.py`. Plain numbers only,
so it crosses processes.
Legend: N rows of the step (padded to its fixed shape), R rows whose logits are read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Phase = Literal["prefill", "decode"]
PLACEHOLDER = -1  # a token that only the device knows yet: the last one that its slot was given


@dataclass(frozen=True, slots=True)
class StepRows:
    """Rows of a prefill step, of a decode step, and of a product that gives a prefill's logits: few are read there."""

    prefill: int
    decode: int
    prefill_logits: int


# The shapes of a job's steps. They are part of its arithmetic, so they follow the kind of device and nothing that a
# resume may change. A CPU's kernels are at their best from about 64 rows on; a GPU needs many more to be filled.
ROWS_ON_CPU = StepRows(prefill=512, decode=64, prefill_logits=16)
ROWS_ON_GPU = StepRows(prefill=4096, decode=256, prefill_logits=64)
# Reading the weights of a large model takes as long as 128 rows of arithmetic, and few more sequences fit beside them.
ROWS_OF_LARGE_ON_GPU = StepRows(prefill=4096, decode=128, prefill_logits=64)
_LARGE = 4096


def step_rows(device: str, hidden_size: int) -> StepRows:
    """The steps' shapes on a device ("cpu", or "cuda" and the like) for a model so wide."""
    if device.startswith("cpu"):
        return ROWS_ON_CPU
    return ROWS_ON_GPU if hidden_size < _LARGE else ROWS_OF_LARGE_ON_GPU


def chunk_length(start: int, *, window: int, max_length: int) -> int:
    """Return the greatest length of a prompt chunk that begins at token `start`.

    A chunk ends where its window of the sparse pattern ends. A window longer than `max_length` tokens is also cut after
    every `max_length` of them.
    """
    offset = start % window
    return min(window, (offset // max_length + 1) * max_length) - offset


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows `row` to `row + length` hold tokens `start` to `start + length` of the sequence in `slot`.

    With `tree_parents` the tokens are a label trie hung on the sequence's end: token i continues token
    `tree_parents[i]` of this segment (-1: the sequence itself), sees its ancestors only, and is not kept.
    """

    slot: int
    row: int
    start: int
    length: int
    tree_parents: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class FreshSlot:
    """A sequence begins in `slot`, with the job's shared prefix before it or without; `must_zero` wipes the slot first."""

    slot: int
    uses_prefix: bool
    must_zero: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """`token_ids` (in a decode step perhaps `PLACEHOLDER`) and `positions`: int64 [N]; `logit_rows`: int64 [R], rows of this
    step whose logits are read."""

    phase: Phase
    token_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    segments: tuple[Segment, ...]
    logit_rows: NDArray[np.int64]
    fresh_slots: tuple[FreshSlot, ...] = ()

    def without_padding(self) -> Step:
        """The rows that hold tokens, which come first."""
        end = max(segment.row + segment.length for segment in self.segments)
        return replace(self, token_ids=self.token_ids[:end], positions=self.positions[:end])
