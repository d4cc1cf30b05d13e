"""The plain backend: attention by torch's own operations. It takes all heads, on any device.

On a CPU a row's bits depend on that row alone: each row of a decode step and each chunk of a
prefill step is one call.
Legend: N rows, T rows of a chunk, H heads, K key/value heads, S slots, C capacity of a slot, D head
dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tirazh.model.attention.backends.interface import HeadType, StepAttention
from tirazh.model.attention.kv_cache import KVCache, LayerCache, PrefixKV
from tirazh.model.attention.layer_shape import LayerKind
from tirazh.model.attention.masked import additive_mask, attention_with_lse, merge_attention
from tirazh.model.attention.prefill_chunks import PrefillChunks, build_chunks
from tirazh.model.attention.step_layout import DecodeRows, StepLayout
from tirazh.model.step import Phase

_LENGTH_UNIT = 64  # a batched call reads a multiple of this many keys


class PlainBackend:
    """Attention by torch, for heads that no kernel of ours takes."""

    def supports(self, heads: HeadType, phase: Phase) -> bool:
        return True

    def build(self, layout: StepLayout, cache: KVCache) -> StepAttention:
        return _PlainAttention(layout, cache)


class _PlainAttention:
    def __init__(self, layout: StepLayout, cache: KVCache) -> None:
        self._layout, self._cache = layout, cache
        self._chunks: dict[LayerKind, PrefillChunks] = {}

    def attend(self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float) -> Tensor:
        cache, kind = self._cache.layers[layer], self._cache.layers[layer].shape.kind
        if self._layout.step.phase == "decode":
            close_windows(self._layout, cache)
            decode = attend_one_by_one if q_NHD.device.type == "cpu" else attend_together
            out_NHD, lse_NH = decode(q_NHD, k_NKD, v_NKD, cache.k, cache.v, self._layout.decode_rows(kind), scale)
        else:
            if kind not in self._chunks:  # the prefix is merged in below, so the chunks themselves do not see it
                self._chunks[kind] = build_chunks(self._layout.contexts, cache, num_prefix=0)
            out_NHD, lse_NH = attend_chunks(q_NHD, k_NKD, v_NKD, cache, self._chunks[kind], scale)
        prefix = self._cache.prefix_kv(layer)
        if prefix is None or self._layout.prefix_rows is None:
            return out_NHD
        prefix_out_NHD, prefix_lse_NH = attend_prefix(q_NHD, prefix, scale)
        has_prefix_N = self._layout.prefix_rows.to(q_NHD.device)
        return merge_attention(out_NHD, lse_NH, prefix_out_NHD, prefix_lse_NH, has_prefix_N)


def close_windows(layout: StepLayout, cache: LayerCache) -> None:
    """Close the full windows of a decode step's slots in one layer, before the new keys are put
    behind them."""
    if cache.shape.kind is LayerKind.SPARSE:
        for slot, window_start in layout.closed_windows:
            cache.close_window(slot, window_start)


def attend_one_by_one(
    q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, cache_k: Tensor, cache_v: Tensor, rows: DecodeRows, scale: float
) -> tuple[Tensor, Tensor]:
    """A decode step on a CPU, one torch call per row.

    Puts the rows' keys and values into the cache, [S, K, C, D]. Computes in float32: for a single
    query torch is slow in narrower dtypes. Returns [N, H, D] and the log-sum-exp of the scores,
    float32 [N, H]; an idle row holds zeros and minus infinity.
    """
    out_NHD, lse_NH = torch.zeros_like(q_NHD), torch.full(q_NHD.shape[:2], -torch.inf)
    for row, (slot, end) in enumerate(zip(rows.slots.tolist(), rows.ends.tolist(), strict=True)):
        if slot < 0:
            continue
        cache_k[slot, :, end], cache_v[slot, :, end] = k_NKD[row], v_NKD[row]
        keys, values = (x[slot, :, : end + 1].float() for x in (cache_k, cache_v))
        # The query is repeated because torch rounds a matmul of one query by how its scratch memory
        # is aligned, which depends on the thread; of two queries it does not.
        query_HTD = q_NHD[row, :, None].float().expand(-1, 2, -1)
        out, lse = attention_with_lse(query_HTD, keys, values, scale, None)
        out_NHD[row], lse_NH[row] = out[:, 0], lse[:, 0]
    return out_NHD, lse_NH


def attend_together(
    q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, cache_k: Tensor, cache_v: Tensor, rows: DecodeRows, scale: float
) -> tuple[Tensor, Tensor]:
    """A decode step by one masked call for all rows, on any device. Returns as `attend_one_by_one`."""
    device = q_NHD.device
    active = (rows.slots >= 0).nonzero()[:, 0]
    slots, ends = rows.slots[active].to(device), rows.ends[active].to(device)
    cache_k[slots, :, ends], cache_v[slots, :, ends] = k_NKD[active.to(device)], v_NKD[active.to(device)]
    longest = min(-(-rows.longest // _LENGTH_UNIT) * _LENGTH_UNIT, cache_k.shape[2])
    is_visible = torch.arange(longest)[None] <= torch.where(rows.slots >= 0, rows.ends, 0)[:, None]
    mask = additive_mask(is_visible, cache_k)[:, None, None]
    keys, values = (_cache_of_rows(x, rows.slots)[:, :, :longest] for x in (cache_k, cache_v))
    out, lse = attention_with_lse(q_NHD[:, :, None], keys, values, scale, mask)
    is_idle = (rows.slots < 0).to(device)
    return (
        out[:, :, 0].masked_fill(is_idle[:, None, None], 0),
        lse[:, :, 0].masked_fill(is_idle[:, None], -torch.inf),
    )


def attend_chunks(
    q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, cache: LayerCache, chunks: PrefillChunks, scale: float
) -> tuple[Tensor, Tensor]:
    """A prefill step, one torch call per chunk, without the shared prefix.

    Changes the cache as the chunks say.

    Returns [N, H, D] and the log-sum-exp of the scores, float32 [N, H]; rows of no chunk hold zeros
    and minus infinity.
    """
    out_NHD = torch.zeros_like(q_NHD, memory_format=torch.contiguous_format)
    lse_NH = torch.full(q_NHD.shape[:2], -torch.inf, device=q_NHD.device)
    for index, chunk in enumerate(chunks.chunks):
        if chunk.close_at is not None:
            cache.close_window(chunk.slot, chunk.close_at)
        rows, end = slice(chunk.row, chunk.row + chunk.length), chunk.num_kept + chunk.length
        q, k, v = (x[rows].transpose(0, 1) for x in (q_NHD, k_NKD, v_NKD))
        if chunk.visible is None:
            cache.k[chunk.slot, :, chunk.num_kept : end] = k
            cache.v[chunk.slot, :, chunk.num_kept : end] = v
            keys, values = cache.k[chunk.slot, :, :end], cache.v[chunk.slot, :, :end]
        else:
            keys = torch.cat([cache.k[chunk.slot, :, : chunk.num_kept], k], dim=1)
            values = torch.cat([cache.v[chunk.slot, :, : chunk.num_kept], v], dim=1)
        out, lse = attention_with_lse(q, keys, values, scale, chunks.mask(index, keys))
        out_NHD[rows], lse_NH[rows] = out.transpose(0, 1), lse.transpose(0, 1)
    return out_NHD, lse_NH


def attend_prefix(q_NHD: Tensor, prefix: PrefixKV, scale: float) -> tuple[Tensor, Tensor]:
    """Every row over all keys of the shared prefix.

    Returns [N, H, D] and the log-sum-exp, float32 [N, H].
    """
    out, lse = attention_with_lse(q_NHD.transpose(0, 1), *prefix, scale, None)
    return out.transpose(0, 1), lse.transpose(0, 1)


def _cache_of_rows(cache: Tensor, slots: Tensor) -> Tensor:
    """The keys (or values) of the rows' slots, [N, K, C, D].

    A view of the cache where every row i that is not idle is in slot `first + i`, which is how the
    engine lays out a step if there is a row for every slot; else a copy.
    """
    first = int((slots - torch.arange(len(slots)))[slots >= 0][0])
    is_run = torch.equal(torch.where(slots >= 0, slots - first, torch.arange(len(slots))), torch.arange(len(slots)))
    if is_run and first >= 0 and first + len(slots) <= cache.shape[0]:
        return cache[first : first + len(slots)]
    return cache[slots.clamp(min=0).to(cache.device)]
