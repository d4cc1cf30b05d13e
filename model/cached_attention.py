"""The batch engine's attention: one layer of one step, over the KV cache.

Reached by any transformers model through its attention interface under the name "tirazh": the engine passes a `step`
keyword, and every layer's queries, keys and values arrive here. No sparse kernel is needed: strip and open window lie
side by side in the cache, so a sparse layer is plain attention over fewer keys; the shared prefix is attended to once
for all rows of the step and merged in by log-sum-exp.
Legend: N rows of the step, H heads, K key/value heads, S keys, D head dim.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from model.attention_reference import visible_keys
from model.decode_attention import DecodeRows, decode_attention
from model.kv_cache import KVCache, LayerCache
from model.masked_attention import additive_mask, attention_with_lse
from model.step import Segment, Step

ATTENTION_NAME = "tirazh"


class StepAttention:
    """Attention of one step. Making it counts the step's tokens into the cache; `attend` is called layer by layer."""

    def __init__(self, step: Step, cache: KVCache) -> None:
        self.step = step
        self.cache = cache
        for fresh in step.fresh_slots:
            cache.start(fresh.slot, uses_prefix=fresh.uses_prefix, scrub=fresh.scrub)
        self.prefix_rows = self._find_prefix_rows()
        # Where each segment's tokens go, in a dense layer and in a sparse one; the same in every layer of its kind.
        self._places: list[_Place] = []
        for segment in step.segments:
            self._places.append(_Place(segment, cache))
            if segment.tree_parents is None:
                cache.advance(segment.slot, segment.length)
        self._closing = [place for place in self._places if place.closes_window]
        self._decode_rows: dict[bool, DecodeRows] = {}

    def attend(self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float) -> Tensor:
        """Take the step's keys and values into the cache and attend. Returns [N, H, D]; padding rows hold anything."""
        cache = self.cache.layers[layer]
        if self.step.phase == "decode":
            for place in self._closing:
                place.close_window(cache)
            rows = self._rows_to_decode(is_sparse=cache.shape.pattern is not None)
            out_NHD, lse_NH = decode_attention(q_NHD, k_NKD, v_NKD, cache.k, cache.v, rows, scale)
        else:
            out_NHD, lse_NH = self._prefill(cache, q_NHD, k_NKD, v_NKD, scale)
        if self.prefix_rows is not None:
            out_NHD = self._merge_prefix(layer, q_NHD, out_NHD, lse_NH, scale)
        return out_NHD

    def _rows_to_decode(self, *, is_sparse: bool) -> DecodeRows:
        """Worked out once for all layers of a kind: they hold the same tokens at the same places."""
        if is_sparse not in self._decode_rows:
            num_rows = len(self.step.token_ids)
            slots, ends = torch.full((num_rows,), -1), torch.zeros(num_rows, dtype=torch.int64)
            for place in self._places:
                slots[place.segment.row], ends[place.segment.row] = place.segment.slot, place.begin(is_sparse)
            self._decode_rows[is_sparse] = DecodeRows(slots, ends, int(ends.max()) + 1)
        return self._decode_rows[is_sparse]

    def _prefill(
        self, cache: LayerCache, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Segment by segment. Returns [N, H, D] and float32 [N, H]."""
        out_NHD = torch.zeros_like(q_NHD, memory_format=torch.contiguous_format)
        lse_NH = torch.full(q_NHD.shape[:2], -torch.inf, device=q_NHD.device)
        for place in self._places:
            rows = slice(place.segment.row, place.segment.row + place.segment.length)
            q, k, v = (x[rows].transpose(0, 1) for x in (q_NHD, k_NKD, v_NKD))
            out, lse = self._segment(cache, place, q, k, v, scale)
            out_NHD[rows] = out.transpose(0, 1)
            if self.prefix_rows is not None:
                lse_NH[rows] = lse.transpose(0, 1)
        return out_NHD, lse_NH

    def _find_prefix_rows(self) -> Tensor | None:
        """Which rows have the shared prefix before them, bool [N]; None when none has."""
        rows = torch.zeros(len(self.step.token_ids), dtype=torch.bool)
        for segment in self.step.segments:
            if self.cache.has_prefix[segment.slot]:
                rows[segment.row : segment.row + segment.length] = True
        return rows if bool(rows.any()) else None

    def _segment(
        self, cache: LayerCache, place: _Place, q: Tensor, k: Tensor, v: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """One segment of a prefill: its own keys are appended, or hung on as a tree. Returns [H, T, D], lse [H, T]."""
        segment, is_sparse = place.segment, cache.shape.pattern is not None
        begin = place.begin(is_sparse)
        if segment.tree_parents is not None:
            keys = torch.cat([cache.k[segment.slot, :, :begin], k], dim=1)
            values = torch.cat([cache.v[segment.slot, :, :begin], v], dim=1)
            return attention_with_lse(q, keys, values, scale, place.tree_mask(cache, q.shape[0]))
        if place.closes_window:
            place.close_window(cache)
        end = begin + segment.length
        cache.k[segment.slot, :, begin:end] = k
        cache.v[segment.slot, :, begin:end] = v
        keys, values = cache.k[segment.slot, :, :end], cache.v[segment.slot, :, :end]
        return attention_with_lse(q, keys, values, scale, place.causal_mask(cache))

    def _merge_prefix(self, layer: int, q_NHD: Tensor, out_NHD: Tensor, lse_NH: Tensor, scale: float) -> Tensor:
        """Blend in attention over the shared prefix, for the rows that have it."""
        assert self.cache.prefix is not None
        assert self.prefix_rows is not None
        shared = self.cache.prefix.layers[layer]
        if shared.shared_k.shape[1] == 0:
            return out_NHD
        prefix_out, prefix_lse = attention_with_lse(
            q_NHD.transpose(0, 1), shared.shared_k, shared.shared_v, scale, None
        )
        prefix_NHD = prefix_out.transpose(0, 1)
        weight_NH = torch.sigmoid(prefix_lse.transpose(0, 1) - lse_NH)  # share of the prefix in the whole softmax
        rows = self.prefix_rows.to(weight_NH.device)[:, None]
        weight = torch.where(rows, weight_NH, 0.0)[:, :, None].to(out_NHD.dtype)
        return torch.where(rows[:, :, None], out_NHD + weight * (prefix_NHD - out_NHD), out_NHD)


class _Place:
    """Where a segment's tokens go in the cache, worked out before the cache counts them."""

    def __init__(self, segment: Segment, cache: KVCache) -> None:
        self.segment = segment
        slot = segment.slot
        self._dense_begin = cache.own_length(slot)
        self.closes_window = segment.tree_parents is None and cache.is_window_full(slot)
        if cache.window_size:
            self._strip = cache.strip_length(slot)
            self._open = cache.open_length(slot)
            self._global = cache.global_size
        self._masks: dict[bool, Tensor] = {}

    def begin(self, is_sparse: bool) -> int:
        """Index in the layer's cache of the segment's first token (for a tree: how many keys there are before it)."""
        if not is_sparse:
            return self._dense_begin
        return self._strip + (self._global if self.closes_window else self._open)

    def close_window(self, cache: LayerCache) -> None:
        """Close the window that ended before the segment; a dense layer has none."""
        if cache.shape.pattern is not None:
            cache.close_window(self.segment.slot, self._strip)

    def causal_mask(self, cache: LayerCache) -> Tensor:
        """Additive [T, keys + T], causal from the bottom right; the same in every layer of a kind."""
        is_sparse = cache.shape.pattern is not None
        if is_sparse not in self._masks:
            before = self.begin(is_sparse)
            visible = torch.ones(self.segment.length, before + self.segment.length, dtype=torch.bool).tril(before)
            self._masks[is_sparse] = additive_mask(visible, cache.k)
        return self._masks[is_sparse]

    def tree_mask(self, cache: LayerCache, num_heads: int) -> Tensor:
        """What the tree's tokens may see, [H or 1, T, keys + T] additive; the same in every layer of a kind."""
        is_sparse = cache.shape.pattern is not None
        if is_sparse not in self._masks:
            mask = _ancestors(self.segment.tree_parents or ())[None]
            before = torch.ones(1, self.segment.length, self.begin(is_sparse), dtype=torch.bool)
            if is_sparse:
                before, mask = self._sparse_tree_mask(cache, before, mask)
            visible = torch.cat([before.expand(mask.shape[0], -1, -1), mask], dim=2)
            self._masks[is_sparse] = additive_mask(visible, cache.k)
        mask = self._masks[is_sparse]
        return mask if mask.shape[0] in (1, num_heads) else mask.repeat_interleave(num_heads // mask.shape[0], 0)

    def _sparse_tree_mask(self, cache: LayerCache, before: Tensor, tree: Tensor) -> tuple[Tensor, Tensor]:
        """A tree that reaches into the next window sees, per head, only the global tokens of the one before."""
        pattern = cache.shape.pattern
        assert pattern is not None
        depths = _depths(self.segment.tree_parents or ())
        tree_positions = self.segment.start + depths
        open_positions = torch.arange(self.segment.start - self._open, self.segment.start)
        starts_H = cache.global_starts_H.cpu()
        keys = torch.cat([open_positions, tree_positions])
        visible = visible_keys(pattern, starts_H, tree_positions[None], keys[None])[0]
        strips = before[..., : self._strip].expand(len(starts_H), -1, -1)
        return torch.cat([strips, visible[..., : self._open]], dim=2), tree & visible[..., self._open :]


def _depths(parents: tuple[int, ...]) -> Tensor:
    depths: list[int] = []
    for parent in parents:
        depths.append(0 if parent < 0 else depths[parent] + 1)
    return torch.tensor(depths)


def _ancestors(parents: tuple[int, ...]) -> Tensor:
    """Bool [T, T]: token i sees token j when j is i or one of its ancestors."""
    mask = torch.eye(len(parents), dtype=torch.bool)
    for token, parent in enumerate(parents):
        if parent >= 0:
            mask[token] |= mask[parent]
    return mask


def _engine_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    step: StepAttention,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What a transformers attention layer calls: [1, H, N, D] in, [1, N, H, D] out."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q_NHD, k_NKD, v_NKD = (x[0].transpose(0, 1) for x in (query, key, value))
    return step.attend(int(module.layer_idx), q_NHD, k_NKD, v_NKD, scale)[None], None  # type: ignore[arg-type]


AttentionInterface.register(ATTENTION_NAME, _engine_attention)
AttentionMaskInterface.register(ATTENTION_NAME, lambda *_, **__: None)
