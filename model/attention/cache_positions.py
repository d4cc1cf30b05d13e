"""Where a step's tokens go in the KV cache, segment by segment, worked out before the cache counts them."""

from __future__ import annotations

from tirazh.model.attention.kv_cache import KVCache
from tirazh.model.step import Segment


class CachePosition:
    """One segment's place. `strip`, `open`: tokens in the slot's strips and of its open window; `dense`: tokens in the
    slot's part of a dense layer; `closes_window`: the open window is full and has to be closed first."""

    def __init__(self, segment: Segment, cache: KVCache) -> None:
        slot = segment.slot
        self.segment = segment
        self.has_prefix = cache.has_prefix[slot]
        self.dense = cache.own_length(slot)
        self.strip = cache.strip_length(slot) if cache.window_size else 0
        self.open = cache.open_length(slot) if cache.window_size else 0
        self.closes_window = segment.tree_parents is None and cache.is_window_full(slot)
        self._global_size = cache.global_size

    def begin(self, is_sparse: bool) -> int:
        """Index in the layer's cache of the segment's first token (for a tree: how many keys there are before it)."""
        if not is_sparse:
            return self.dense
        return self.strip + (self._global_size if self.closes_window else self.open)
