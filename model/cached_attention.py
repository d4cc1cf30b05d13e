"""The batch engine's attention: one layer of one step, over the KV cache.

Reached by any transformers model through its attention interface under the name "tirazh": the engine passes a `step`
keyword, and every layer's queries, keys and values arrive here. No sparse kernel is needed: strip and open window lie
side by side in the cache, so a sparse layer is plain attention over fewer keys; the shared prefix is attended to once
for all rows of the step and merged in by log-sum-exp.
Legend: N rows of the step, H heads, K key/value heads, S keys, D head dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from model.attention_reference import visible_keys
from model.kv_cache import KVCache, LayerCache
from model.step import Segment, Step

ATTENTION_NAME = "tirazh"
_LENGTH_UNIT = 64  # a batched decode reads a multiple of this many keys
# A float32 product of one query on a CPU rounds by where its thread's scratch memory happens to begin, so which slots
# run beside it would show in its bits. A product of two does not: every query is asked twice.
_TIMES_ASKED = {("cpu", torch.float32): 2}


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
        self._decode_plans: dict[bool, _DecodePlan] = {}

    def attend(self, layer: int, q_HND: Tensor, k_KND: Tensor, v_KND: Tensor, scale: float) -> Tensor:
        """Take the step's keys and values into the cache and attend. Returns [N, H, D]; padding rows hold anything."""
        cache = self.cache.layers[layer]
        lse_HN = None if self.prefix_rows is None else q_HND.new_full(q_HND.shape[:2], -torch.inf, dtype=torch.float32)
        if self.step.phase == "decode":
            out_HND, lse_HN = self._decode(cache, q_HND, k_KND, v_KND, scale)
        else:
            out_HND = torch.zeros_like(q_HND)
            for place in self._places:
                rows = slice(place.segment.row, place.segment.row + place.segment.length)
                qkv = q_HND[:, rows], k_KND[:, rows], v_KND[:, rows]
                out, lse = self._segment(cache, place, *qkv, scale)
                out_HND[:, rows] = out
                if lse_HN is not None:
                    lse_HN[:, rows] = lse
        if self.prefix_rows is not None:
            out_HND = self._merge_prefix(layer, q_HND, out_HND, lse_HN, scale)
        return out_HND.transpose(0, 1)

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
        place.close_window(cache)
        end = begin + segment.length
        cache.k[segment.slot, :, begin:end] = k
        cache.v[segment.slot, :, begin:end] = v
        keys, values = cache.k[segment.slot, :, :end], cache.v[segment.slot, :, :end]
        return attention_with_lse(q, keys, values, scale, place.causal_mask(cache))

    def _decode(
        self, cache: LayerCache, q_HND: Tensor, k_KND: Tensor, v_KND: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """One token in each of a run of slots, in one batched call. Row i is slot `first + i`."""
        plan = self._decode_plan(cache)
        for place in self._places:
            place.close_window(cache)
        cache.k[plan.slots, :, plan.ends] = k_KND[:, plan.rows].transpose(0, 1)
        cache.v[plan.slots, :, plan.ends] = v_KND[:, plan.rows].transpose(0, 1)
        first, count, longest = plan.first, plan.count, plan.mask.shape[-1]
        times = _TIMES_ASKED.get((q_HND.device.type, q_HND.dtype), 1)
        q = q_HND[:, :count].transpose(0, 1)[:, :, None].repeat(1, 1, times, 1)
        keys, values = (x[first : first + count, :, :longest] for x in (cache.k, cache.v))
        out, lse = attention_with_lse(q, keys, values, scale, plan.mask)
        out_HND, lse_HN = torch.zeros_like(q_HND), q_HND.new_zeros(q_HND.shape[:2], dtype=torch.float32)
        out_HND[:, :count] = out[:, :, 0].transpose(0, 1)
        lse_HN[:, :count] = lse[:, :, 0].transpose(0, 1)
        return out_HND, lse_HN

    def _decode_plan(self, cache: LayerCache) -> _DecodePlan:
        """Worked out once for all layers of a kind: they hold the same tokens at the same places."""
        is_sparse = cache.shape.pattern is not None
        if is_sparse not in self._decode_plans:
            self._decode_plans[is_sparse] = self._make_decode_plan(cache, is_sparse)
        return self._decode_plans[is_sparse]

    def _make_decode_plan(self, cache: LayerCache, is_sparse: bool) -> _DecodePlan:
        segments = [place.segment for place in self._places]
        first = segments[0].slot - segments[0].row
        count = min(len(self.step.token_ids), self.cache.num_slots - first)
        ends = {place.segment.slot: place.begin(is_sparse) for place in self._places}
        longest = -(-(max(ends.values()) + 1) // _LENGTH_UNIT) * _LENGTH_UNIT
        longest = min(longest, cache.k.shape[2])
        last_read = torch.tensor([ends.get(first + row, 0) for row in range(count)])
        is_visible = torch.arange(longest)[None, :] <= last_read[:, None]
        device = cache.k.device
        return _DecodePlan(
            first=first,
            count=count,
            slots=torch.tensor([segment.slot for segment in segments], device=device),
            rows=torch.tensor([segment.row for segment in segments], device=device),
            ends=torch.tensor(list(ends.values()), device=device),
            mask=_additive(is_visible, cache.k)[:, None, None],
        )

    def _merge_prefix(self, layer: int, q_HND: Tensor, out_HND: Tensor, lse_HN: Tensor | None, scale: float) -> Tensor:
        """Blend in attention over the shared prefix, for the rows that have it."""
        assert self.cache.prefix is not None
        assert self.prefix_rows is not None
        assert lse_HN is not None
        shared = self.cache.prefix.layers[layer]
        if shared.shared_k.shape[1] == 0:
            return out_HND
        prefix_out, prefix_lse = attention_with_lse(q_HND, shared.shared_k, shared.shared_v, scale, None)
        weight_HN = torch.sigmoid(prefix_lse - lse_HN)  # share of the prefix in the whole softmax
        rows = self.prefix_rows.to(weight_HN.device)
        weight = torch.where(rows, weight_HN, 0.0)[:, :, None].to(out_HND.dtype)
        return torch.where(rows[None, :, None], out_HND + weight * (prefix_out - out_HND), out_HND)


@dataclass(frozen=True, slots=True)
class _DecodePlan:
    """How one kind of layer decodes this step: row i is slot `first + i`, for `count` rows. `slots`, `rows` and `ends`
    (where the new key goes) have one entry a decoding sequence; `mask` is additive, [count, 1, 1, keys read]."""

    first: int
    count: int
    slots: Tensor
    rows: Tensor
    ends: Tensor
    mask: Tensor


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
        """Close the window before the segment, where it ended there; a dense layer has none."""
        if self.closes_window and cache.shape.pattern is not None:
            cache.close_window(self.segment.slot, self._strip)

    def causal_mask(self, cache: LayerCache) -> Tensor:
        """Additive [T, keys + T], causal from the bottom right; the same in every layer of a kind."""
        is_sparse = cache.shape.pattern is not None
        if is_sparse not in self._masks:
            before = self.begin(is_sparse)
            visible = torch.ones(self.segment.length, before + self.segment.length, dtype=torch.bool).tril(before)
            self._masks[is_sparse] = _additive(visible, cache.k)
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
            self._masks[is_sparse] = _additive(visible, cache.k)
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


def _additive(visible: Tensor, like: Tensor) -> Tensor:
    """What is to be added to scores: 0 where `visible`, else minus infinity; dtype and device of `like`."""
    zeros = torch.zeros(visible.shape, dtype=like.dtype, device=visible.device)
    return zeros.masked_fill(~visible, -torch.inf).to(like.device)


def attention_with_lse(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention and the log-sum-exp of its scores. q [..., H, T, D], k and v [..., K, S, D] with H a multiple of K;
    mask bool or additive, broadcast to [..., H, T, S]. Returns [..., H, T, D] and float32 [..., H, T]."""
    groups = q.shape[-3] // k.shape[-3]
    if groups > 1:
        k, v = (x.repeat_interleave(groups, dim=-3) for x in (k, v))
    if mask is not None and mask.dtype == torch.bool:
        mask = _additive(mask, q)
    if q.device.type == "cpu" and q.dtype != torch.float16:
        squeeze = q.dim() == 3
        if squeeze:
            q, k, v = q[None], k[None], v[None]
        if mask is not None:
            mask = mask[None] if squeeze and mask.dim() == 3 else mask
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=mask, scale=scale)
        return (out[0], lse[0]) if squeeze else (out, lse)
    scores = (q @ k.transpose(-1, -2)).float() * scale
    if mask is not None:
        scores = scores + mask
    lse = torch.logsumexp(scores, dim=-1)
    return torch.exp(scores - lse[..., None]).to(v.dtype) @ v, lse


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
    out = step.attend(int(module.layer_idx), query[0], key[0], value[0], scale)  # type: ignore[arg-type]
    return out[None], None


AttentionInterface.register(ATTENTION_NAME, _engine_attention)
AttentionMaskInterface.register(ATTENTION_NAME, lambda *_, **__: None)
