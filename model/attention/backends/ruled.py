"""Attention of dense layers with a sliding window or a softcap: one torch call per segment of a step.

Each call reads only the keys in the windows of its rows, those of the shared prefix included, so a
row's bits depend on its own sequence alone.
Legend: N rows, T rows of a segment, S keys that they read, H heads, K key/value heads, D head dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tirazh.model.attention.kv_cache import KVCache, LayerCache
from tirazh.model.attention.masked import additive_mask, attention_with_lse
from tirazh.model.attention.segment_context import SegmentContext
from tirazh.model.attention.step_layout import StepLayout
from tirazh.model.attention.tree_masks import ancestor_mask, depths


class RuledAttention:
    """The attention of one step in the layers of a cache that have `AttentionRules`; on any device."""

    def __init__(self, layout: StepLayout, cache: KVCache) -> None:
        self._layout, self._cache = layout, cache
        self._masks: dict[tuple[int, int | None], Tensor | None] = {}  # by segment and window

    def attend(self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float) -> Tensor:
        """As `StepAttention.attend`; rows of no segment hold zeros."""
        cache = self._cache.layers[layer]
        rules = cache.shape.rules
        out_NHD = torch.zeros_like(q_NHD, memory_format=torch.contiguous_format)
        for index, context in enumerate(self._layout.contexts):
            segment = context.segment
            rows = slice(segment.row, segment.row + segment.length)
            q, k, v = (x[rows].transpose(0, 1) for x in (q_NHD, k_NKD, v_NKD))
            keys, values = self._keys_and_values(layer, context, k, v)
            if (index, rules.window) not in self._masks:
                self._masks[index, rules.window] = _mask(context, rules.window, q)
            mask = self._masks[index, rules.window]
            if segment.length == 1:
                # As in the plain backend: float32 is faster for one query, and torch rounds a matmul
                # of one query by the alignment of its scratch memory; of two queries it does not.
                q, keys, values = q.float().expand(-1, 2, -1), keys.float(), values.float()
                mask = None if mask is None else mask.float()
            out, _ = attention_with_lse(q, keys, values, scale, mask, rules.softcap)
            out_NHD[rows] = out[:, : segment.length].transpose(0, 1).to(out_NHD.dtype)
        return out_NHD

    def _keys_and_values(self, layer: int, context: SegmentContext, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values that any row of the segment sees, [K, S, D] each.

        Puts the segment's own, `k` and `v` [K, T, D], into the cache, unless it is a label tree.
        """
        cache: LayerCache = self._cache.layers[layer]
        segment, end = context.segment, context.num_dense
        is_tree = segment.tree_parents is not None
        if not is_tree:
            cache.k[segment.slot, :, end : end + segment.length] = k
            cache.v[segment.slot, :, end : end + segment.length] = v
            end += segment.length
        first = _first_key(segment.start, cache.shape.rules.window)
        prefix = self._cache.prefix_kv(layer) if context.has_prefix else None
        num_prefix = 0 if prefix is None else prefix.k.shape[1]
        parts = []
        for shared, stored, own in zip(prefix or (None, None), (cache.k, cache.v), (k, v), strict=True):
            part = [stored[segment.slot, :, max(0, first - num_prefix) : end]]
            if shared is not None and first < num_prefix:
                part.insert(0, shared[:, first:])
            if is_tree:
                part.append(own)
            parts.append(torch.cat(part, dim=1) if len(part) > 1 else part[0])
        return parts[0], parts[1]


def _first_key(start: int, window: int | None) -> int:
    """Position of the first key that a segment which begins at position `start` sees."""
    return 0 if window is None else max(0, start - window + 1)


def _mask(context: SegmentContext, window: int | None, like: Tensor) -> Tensor | None:
    """Additive [1, T, S], or None where every row of the segment sees all its keys."""
    segment = context.segment
    keys = torch.arange(_first_key(segment.start, window), segment.start)
    if segment.tree_parents is None:
        queries = torch.arange(segment.start, segment.start + segment.length)
        keys = torch.cat([keys, queries])
        visible = keys[None] <= queries[:, None]
    else:
        queries = segment.start + depths(segment.tree_parents)
        before = torch.ones(len(queries), len(keys), dtype=torch.bool)
        visible = torch.cat([before, ancestor_mask(segment.tree_parents)[0]], dim=1)
        keys = torch.cat([keys, queries])
    if window is not None:
        visible = visible & (keys[None] > queries[:, None] - window)
    return None if bool(visible.all()) else additive_mask(visible[None], like)
