"""Where the rows of a step go in the KV cache. Worked out once per step and used by every layer.

Legend: N rows of the step.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tirazh.model.attention.kv_cache import KVCache
from tirazh.model.attention.layer_shape import LayerKind
from tirazh.model.attention.segment_context import SegmentContext
from tirazh.model.step import Step


@dataclass(frozen=True)
class DecodeRows:
    """Row i of a decode step is in slot `slots[i]` (-1: idle), and its key goes to index `ends[i]`
    of the slot's keys.

    Both int64 [N], on the CPU. `longest` is the highest of `ends` plus one.
    """

    slots: Tensor
    ends: Tensor
    longest: int
    _fitting: set[tuple[int, int]] = field(default_factory=set, init=False, repr=False, compare=False)

    @functools.cached_property
    def num_rows(self) -> int:
        """N."""
        return len(self.slots)

    @functools.cached_property
    def addresses(self) -> tuple[int, int]:
        """Of the elements of `slots` and of `ends`."""
        return self.slots.data_ptr(), self.ends.data_ptr()

    def check(self, num_slots: int, capacity: int) -> None:
        """Raise ValueError if a row is outside a cache of `num_slots` slots of `capacity` keys each.

        A kernel would write there. The layers of a step share the rows, so a cache of the same size
        costs nothing the second time.
        """
        if (num_slots, capacity) in self._fitting:
            return
        slots, ends = self.slots.numpy(), self.ends.numpy()
        if not slots.shape == ends.shape == (slots.size,) or not slots.dtype == ends.dtype == np.int64:
            raise ValueError(
                f"slots and ends must be int64 [N], got {slots.dtype} {slots.shape}, {ends.dtype} {ends.shape}"
            )
        is_active = slots >= 0
        is_inside = (slots >= -1) & (slots < num_slots) & (ends >= 0) & (ends < min(capacity, self.longest))
        if not (is_inside | (slots == -1)).all():
            row = int((~is_inside & is_active | (slots < -1)).argmax())
            raise ValueError(
                f"row {row} of a decode step goes to key {ends[row]} of slot {slots[row]}, "
                f"but there are {num_slots} slots of {capacity} keys, and no row was to have more than {self.longest}"
            )
        self._fitting.add((num_slots, capacity))


@dataclass(frozen=True)
class StepLayout:
    """A step and, for each of its segments, what the segment's slot held before it."""

    step: Step
    contexts: tuple[SegmentContext, ...]
    _decode_rows: dict[LayerKind, DecodeRows] = field(default_factory=dict, init=False, repr=False, compare=False)

    def row_slots(self) -> Tensor:
        """The slot of every row of a decode step, int64 [N], on the CPU; -1 where the row is idle."""
        slots = np.full(len(self.step.token_ids), -1)
        for segment in self.step.segments:
            slots[segment.row] = segment.slot
        return torch.from_numpy(slots)

    def decode_rows(self, kind: LayerKind) -> DecodeRows:
        """The rows of a decode step in layers of one kind; worked out for its first layer."""
        if kind not in self._decode_rows:
            self._decode_rows[kind] = self._build_decode_rows(kind)
        return self._decode_rows[kind]

    def _build_decode_rows(self, kind: LayerKind) -> DecodeRows:
        ends = np.zeros(len(self.step.token_ids), dtype=np.int64)
        for context in self.contexts:
            ends[context.segment.row] = context.num_cached(kind)
        return DecodeRows(self.row_slots(), torch.from_numpy(ends), max(map(int, ends), default=0) + 1)

    @functools.cached_property
    def closed_windows(self) -> tuple[tuple[int, int], ...]:
        """The slots whose full window a decode step closes, each with the index of the window's first key."""
        return tuple((each.segment.slot, each.num_retained) for each in self.contexts if each.closes_window)

    @functools.cached_property
    def prefix_rows(self) -> Tensor | None:
        """Which rows have the shared prefix before them, bool [N], on the CPU; None if none has."""
        segments = [context.segment for context in self.contexts if context.has_prefix]
        if not segments:
            return None
        rows = np.zeros(len(self.step.token_ids), dtype=np.bool_)
        for segment in segments:
            rows[segment.row : segment.row + segment.length] = True
        return torch.from_numpy(rows)


def append_step(step: Step, cache: KVCache) -> StepLayout:
    """Start the step's fresh slots and count its tokens into the cache; returns where they go.

    The lengths of the cache's slots change here, the keys and values when the layers attend. A
    label tree is not kept, so it is not counted. Call this exactly once per step.
    """
    cache.start(step.fresh_slots)
    contexts = []
    for segment in step.segments:
        # A later segment of the same slot is laid out behind the earlier one, so each is counted
        # before the next.
        contexts.append(SegmentContext.before(segment, cache))
        if segment.tree_parents is None:
            cache.advance(segment.slot, segment.length)
    return StepLayout(step, tuple(contexts))
