"""The batch engine's attention: one layer of one step, over the KV cache.

Reached by any transformers model through its attention interface under the name "tirazh": the engine passes a `step`
keyword, and every layer's queries, keys and values arrive here. No sparse kernel is needed: strip and open window lie
side by side in the cache, so a sparse layer is plain attention over fewer keys; the shared prefix is attended to once
for all rows of the step and merged in by log-sum-exp.
Legend: N rows of the step, H heads, K key/value heads, S keys, D head dim.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from tirazh.model.attention.cache_positions import CachePosition
from tirazh.model.attention.decode import DecodeRows, decode_attention
from tirazh.model.attention.gpu import GpuDecode, GpuPrefill, PrefillTables, can_launch, decode_table, prefill_tables
from tirazh.model.attention.kv_cache import KVCache, LayerCache
from tirazh.model.attention.masked import merge_attention
from tirazh.model.attention.prefill import (
    PrefillChunk,
    PrefillChunks,
    attend_chunks,
    attend_compiled,
    attend_prefix,
    can_compile,
)
from tirazh.model.attention.reference import visible_keys
from tirazh.model.step import Step
from tirazh.model.transfer import to_device

ATTENTION_NAME = "tirazh"


class StepAttention:
    """Attention of one step. Making it counts the step's tokens into the cache; `attend` is called layer by layer."""

    def __init__(self, step: Step, cache: KVCache) -> None:
        self.step = step
        self.cache = cache
        cache.start(step.fresh_slots)
        # Where each segment's tokens go, in a dense layer and in a sparse one; the same in every layer of its kind.
        self._places: list[CachePosition] = []
        for segment in step.segments:
            self._places.append(CachePosition(segment, cache))
            if segment.tree_parents is None:
                cache.advance(segment.slot, segment.length)
        self._decode_rows: dict[bool, DecodeRows] = {}
        self._pieces: dict[bool, PrefillChunks] = {}
        self._on_gpu: GpuDecode | GpuPrefill | None = None

    def attend(self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float) -> Tensor:
        """Take the step's keys and values into the cache and attend. Returns [N, H, D]; padding rows hold anything."""
        if can_launch(q_NHD):
            return self._launch_attention(q_NHD.device).attend(layer, q_NHD, k_NKD, v_NKD, scale)
        cache, is_sparse = self.cache.layers[layer], self.cache.layers[layer].shape.pattern is not None
        prefix = self._prefix(layer)
        if self.step.phase == "decode":
            for place in self._places:
                if is_sparse and place.closes_window:
                    cache.close_window(place.segment.slot, place.strip)
            rows = self._rows_to_decode(is_sparse=is_sparse)
            out_NHD, lse_NH = decode_attention(q_NHD, k_NKD, v_NKD, cache.k, cache.v, rows, scale)
        else:
            pieces = self._pieces_to_prefill(cache, num_prefix=prefix[0].shape[1] if prefix else 0)
            if can_compile(q_NHD):
                return attend_compiled(q_NHD, k_NKD, v_NKD, cache, pieces, scale, prefix)[0]
            out_NHD, lse_NH = attend_chunks(q_NHD, k_NKD, v_NKD, cache, pieces, scale)
        return out_NHD if prefix is None else self._merge_prefix(prefix, q_NHD, out_NHD, lse_NH, scale)

    def decode_table(self) -> Tensor:
        """The step as `GpuDecode` takes it, int32 [N, fields], on the CPU."""
        return decode_table(len(self.step.token_ids), self._places)

    def slots_of_rows(self) -> Tensor:
        """The slot of every row of a decode step, int64 [N], on the CPU; -1 where the row is idle."""
        slots = torch.full((len(self.step.token_ids),), -1)
        for segment in self.step.segments:
            slots[segment.row] = segment.slot
        return slots

    def prefill_tables(self) -> dict[bool, PrefillTables]:
        """The step as `GpuPrefill` takes it, for the kinds of layers that there are, on the CPU."""
        trees = [place.segment.tree_parents for place in self._places]
        tables: dict[bool, PrefillTables] = {}
        for layer in {cache.shape.pattern is not None: cache for cache in self.cache.layers}.values():
            masks = [
                None if tree is None else _tree_sees_last(place, layer, tree)
                for place, tree in zip(self._places, trees, strict=True)
            ]
            tables[layer.shape.pattern is not None] = prefill_tables(self._places, masks, layer)
        return tables

    def _launch_attention(self, device: torch.device) -> GpuDecode | GpuPrefill:
        if self._on_gpu is None and self.step.phase == "decode":
            self._on_gpu = GpuDecode(self.cache, to_device(self.decode_table(), device))
        elif self._on_gpu is None:
            tables = {
                is_sparse: PrefillTables(*(to_device(part, device) for part in each.parts))
                for is_sparse, each in self.prefill_tables().items()
            }
            self._on_gpu = GpuPrefill(self.cache, tables)
        return self._on_gpu

    def _rows_to_decode(self, *, is_sparse: bool) -> DecodeRows:
        if is_sparse not in self._decode_rows:
            ends = torch.zeros(len(self.step.token_ids), dtype=torch.int64)
            for place in self._places:
                ends[place.segment.row] = place.begin(is_sparse)
            self._decode_rows[is_sparse] = DecodeRows(self.slots_of_rows(), ends, int(ends.max()) + 1)
        return self._decode_rows[is_sparse]

    def _pieces_to_prefill(self, cache: LayerCache, *, num_prefix: int) -> PrefillChunks:
        is_sparse = cache.shape.pattern is not None
        if is_sparse not in self._pieces:
            self._pieces[is_sparse] = PrefillChunks([_piece(place, cache, num_prefix) for place in self._places])
        return self._pieces[is_sparse]

    @functools.cached_property
    def _prefix_rows(self) -> Tensor | None:
        """Which rows have the shared prefix before them, bool [N]; None when none has."""
        rows = torch.zeros(len(self.step.token_ids), dtype=torch.bool)
        for segment in self.step.segments:
            if self.cache.has_prefix[segment.slot]:
                rows[segment.row : segment.row + segment.length] = True
        return rows if bool(rows.any()) else None

    def _prefix(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values of the shared prefix that some rows read in place, [K, P, D] each."""
        if self.cache.prefix is None or self._prefix_rows is None:
            return None
        shared = self.cache.prefix.layers[layer]
        return (shared.shared_k, shared.shared_v) if shared.shared_k.shape[1] else None

    def _merge_prefix(
        self, prefix: tuple[Tensor, Tensor], q_NHD: Tensor, out_NHD: Tensor, lse_NH: Tensor, scale: float
    ) -> Tensor:
        """Blend in attention over the shared prefix, for the rows that have it."""
        assert self._prefix_rows is not None
        has_prefix_N = self._prefix_rows.to(q_NHD.device)
        return merge_attention(out_NHD, lse_NH, *attend_prefix(q_NHD, prefix, scale), has_prefix_N)


def _piece(place: CachePosition, cache: LayerCache, num_prefix: int) -> PrefillChunk:
    """A segment as a piece of a prefill, in layers like that of `cache` with `num_prefix` shared keys."""
    segment, is_sparse = place.segment, cache.shape.pattern is not None
    return PrefillChunk(
        slot=segment.slot,
        row=segment.row,
        length=segment.length,
        num_kept=place.begin(is_sparse),
        num_prefix=num_prefix if place.has_prefix else 0,
        close_at=place.strip if is_sparse and place.closes_window else None,
        visible=None if segment.tree_parents is None else _tree_sees(place, cache, segment.tree_parents),
    )


def _tree_sees(place: CachePosition, cache: LayerCache, parents: tuple[int, ...]) -> Tensor:
    """Bool [H or 1, T, keys + T]: a tree's tokens see their ancestors and all keys before the tree, but a tree that
    reaches into the next window, per head, only the global tokens of the one before."""
    ancestors = _ancestors(parents)
    before = torch.ones(1, len(parents), place.begin(cache.shape.pattern is not None), dtype=torch.bool)
    if cache.shape.pattern is None:
        return torch.cat([before, ancestors], dim=2)
    start = place.segment.start
    tree_positions = start + _depths(parents)
    open_positions = torch.arange(start - place.open, start)
    starts_H = cache.global_starts_H.cpu()
    keys = torch.cat([open_positions, tree_positions])
    visible = visible_keys(cache.shape.pattern, starts_H, tree_positions[None], keys[None])[0]
    strips = before[..., : place.strip].expand(len(starts_H), -1, -1)
    return torch.cat([strips, visible[..., : place.open], ancestors & visible[..., place.open :]], dim=2)


def _tree_sees_last(place: CachePosition, cache: LayerCache, parents: tuple[int, ...]) -> Tensor:
    """Bool [H or 1, T, S + T]: what a tree's tokens see of the last S keys before it and of themselves; of all keys
    before those they see everything. S is 0 unless the tree reaches into the next window of a sparse layer."""
    pattern, last = cache.shape.pattern, place.segment.start - 1
    deepest = last + 1 + int(_depths(parents).max())
    if pattern is None or last // pattern.window_size == deepest // pattern.window_size:
        return _ancestors(parents)
    return _tree_sees(place, cache, parents)


@functools.lru_cache(maxsize=4)
def _depths(parents: tuple[int, ...]) -> Tensor:
    depths: list[int] = []
    for parent in parents:
        depths.append(0 if parent < 0 else depths[parent] + 1)
    return torch.tensor(depths)


@functools.lru_cache(maxsize=4)
def _ancestors(parents: tuple[int, ...]) -> Tensor:
    """Bool [1, T, T]: token i sees token j when j is i or one of its ancestors."""
    mask = torch.eye(len(parents), dtype=torch.bool)
    for token, parent in enumerate(parents):
        if parent >= 0:
            mask[token] |= mask[parent]
    return mask[None]


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
