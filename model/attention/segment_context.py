"""What a slot of the KV cache holds at the moment when a segment of a step is appended to it."""

from __future__ import annotations

from dataclasses import dataclass

from tirazh.model.attention.kv_cache import KVCache
from tirazh.model.attention.layer_shape import LayerKind
from tirazh.model.step import Segment


@dataclass(frozen=True, slots=True)
class SegmentContext:
    """A segment and the state of its slot just before it, counted in tokens.

    `num_dense`: tokens that a dense layer holds. `num_retained` and `num_open`: tokens of closed
    windows that each head of a sparse layer retains, and tokens of the open window behind them.
    `closes_window`: the open window is full and the segment begins the next one, so the window is
    closed first. `has_prefix`: the shared prefix precedes the slot.
    """

    segment: Segment
    has_prefix: bool
    num_dense: int
    num_retained: int
    num_open: int
    closes_window: bool
    global_size: int

    @classmethod
    def before(cls, segment: Segment, cache: KVCache) -> SegmentContext:
        """The context of a segment that has not been counted into the cache yet."""
        slot = segment.slot
        return cls(
            segment=segment,
            has_prefix=cache.has_prefix[slot],
            num_dense=cache.own_length(slot),
            num_retained=cache.num_retained(slot) if cache.window_size else 0,
            num_open=cache.num_open(slot) if cache.window_size else 0,
            # A label tree is not kept, so it leaves the window open.
            closes_window=segment.tree_parents is None and cache.is_window_full(slot),
            global_size=cache.global_size,
        )

    def num_cached(self, kind: LayerKind) -> int:
        """Keys in the slot before the segment, which is also the index of the segment's first key
        in the slot.

        The full window, if there is one, is already counted as closed.
        """
        if kind is LayerKind.DENSE:
            return self.num_dense
        return self.num_retained + (self.global_size if self.closes_window else self.num_open)
