"""A step's attention on a GPU: tables that say where every row's keys are, and the launches that read them.

The kernels are `kernels/attention_triton.py`. A decode step's shapes and addresses never change, so that a CUDA graph
can hold it (`decode_graph.py`). With TRITON_INTERPRET=1 the kernels run on a CPU, slowly, to be checked there.
Legend: N rows of the step, H heads, K key/value heads, S slots, C capacity, P tokens of the prefix, D head dim.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from model.kv_cache import KVCache, LayerCache
from model.masked_attention import merge_attention
from model.places import Place

_TILE = 64  # queries of a prefill's tile, and keys read at a time
# Of float32, which is multiplied exactly: larger tiles do not fit a GPU's shared memory.
_WIDE_TILE, _WIDE_BLOCK, _WIDEST_HEAD = 16, 16, 128
_DENSE_END, _SPARSE_END, _HAS_PREFIX = 1, 2, 4  # columns of a decode step's table
DECODE_IDLE = (-1, 0, 0, -1, 0)  # a decode step's row that nothing runs in
Prefix = tuple[Tensor, Tensor]


def can_launch(like: Tensor) -> bool:
    """Whether the kernels take heads of such numbers, [..., D], here."""
    dim = like.shape[-1]
    most = _WIDEST_HEAD if like.dtype == torch.float32 else 2 * _WIDEST_HEAD
    has_device = like.device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
    return has_device and 16 <= dim <= most and dim & (dim - 1) == 0 and _has_triton()


@dataclass(frozen=True, slots=True)
class PrefillTables:
    """Tiles of queries and runs of new tokens of a prefill step in layers of one kind: int32 [tiles, fields] and
    [runs, fields]; `masks` float32, one behind the other. On the step's device."""

    tiles: Tensor
    runs: Tensor
    masks: Tensor


class GpuDecode:
    """The attention of one decode step, made of a table alone; `attend` as in `cached_attention.StepAttention`."""

    def __init__(self, cache: KVCache, table: Tensor) -> None:
        """`table`: int32 [N, fields] by `decode_table`, on the cache's device."""
        self._cache, self._table = cache, table

    def attend(self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float) -> Tensor:
        """Take the rows' keys and values into the cache and attend. Returns [N, H, D]; idle rows hold zeros."""
        cache = self._cache.layers[layer]
        out_NHD, lse_NH = attend_decode(q_NHD, k_NKD, v_NKD, cache, self._table, scale)
        shared = self._cache.prefix.layers[layer] if self._cache.prefix else None
        if shared is None or not shared.shared_k.shape[1]:
            return out_NHD
        prefix = attend_prefix(q_NHD, (shared.shared_k, shared.shared_v), scale)
        return merge_attention(out_NHD, lse_NH, *prefix, self._table[:, _HAS_PREFIX] > 0)


def decode_table(num_rows: int, places: Sequence[Place]) -> Tensor:
    """int32 [num_rows, fields], on the CPU: what `kernels/attention_triton.decode` reads of every row."""
    table = torch.tensor(DECODE_IDLE, dtype=torch.int32).repeat(num_rows, 1)
    if places:
        table[[place.segment.row for place in places]] = torch.tensor(
            [
                [
                    place.segment.slot,
                    place.begin(is_sparse=False),
                    place.begin(is_sparse=True),
                    place.strip if place.closes_window else -1,
                    int(place.has_prefix),
                ]
                for place in places
            ],
            dtype=torch.int32,
        )
    return table


def attend_decode(
    q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, cache: LayerCache, table: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Every row over its slot's own keys. Returns [N, H, D] and the log-sum-exp, float32 [N, H]; an idle row holds
    zeros and minus infinity."""
    kernels, kind = _kernels(), _Kind(cache)
    num_rows, num_heads, dim = q_NHD.shape
    q_NHD, k_NKD, v_NKD = (_dense_last(x) for x in (q_NHD, k_NKD, v_NKD))
    out = q_NHD.new_empty(num_rows, num_heads, dim)
    lse = torch.empty(num_rows, num_heads, device=q_NHD.device)
    kernels.decode[num_rows, num_heads](
        q_NHD, k_NKD, v_NKD, cache.k, cache.v, cache.global_starts_H, table, out, lse,
        *q_NHD.stride()[:2], *k_NKD.stride()[:2], *v_NKD.stride()[:2], *cache.k.stride()[:2],
        scale, num_heads, kind.global_size,
        FIELDS=kernels.DECODE_FIELDS, END=_SPARSE_END if kind.is_sparse else _DENSE_END,
        GROUP=num_heads // k_NKD.shape[1], D=dim, N=_TILE, G_UP=kind.global_size_up, HAS_STARTS=kind.is_sparse,
    )  # fmt: skip
    return out, lse


def prefill_tables(
    places: Sequence[Place], masks: Sequence[Tensor | None], kind: LayerCache, num_prefix: int
) -> PrefillTables:
    """Tables of a step's segments in layers like `kind`, on its device; `masks[i]`: what the tokens of a tree see, bool
    [1 or H, T, keys + T] (None: a causal segment). `num_prefix`: tokens of the prefix that such a layer shares."""
    shape, tile = _Kind(kind), _tile(kind.k.dtype)[0]
    window, size, is_sparse = shape.window, shape.global_size, shape.is_sparse
    tiles, runs, flat, num_flat = [], [], [torch.zeros(1)], 1
    run_of: dict[int, tuple[int, int, int]] = {}  # by slot: strip, cached, row of the first new token
    next_row: dict[int, int] = {}
    for place, mask in zip(places, masks, strict=True):
        segment = place.segment
        strip, cached = (place.strip, place.open) if is_sparse else (0, place.dense)
        strip, cached, new_row = run_of.setdefault(segment.slot, (strip, cached, segment.row))
        # What a planner promises: all that a step takes of a sequence stands in rows one after the other.
        assert next_row.get(segment.slot, segment.row) == segment.row
        next_row[segment.slot] = segment.row + segment.length
        first_t = cached + segment.row - new_row
        if mask is None:
            closed = first_t // window if is_sparse else 0
            runs.append([segment.slot, strip, cached, first_t + segment.length, new_row])
        else:
            closed = max(0, first_t - 1) // window if is_sparse else 0
        kept = strip + closed * size + first_t - closed * window
        mask_at, width = -1, 0
        if mask is not None:
            num_heads, width = mask.shape[:2]
            flat.append(torch.zeros(num_heads, mask.shape[2], width).masked_fill_(~mask.transpose(1, 2), -torch.inf))
            mask_at, num_flat = num_flat, num_flat + mask.numel()
            width = width if num_heads > 1 else -width
        for at in range(0, segment.length, tile):
            rows = min(tile, segment.length - at)
            num_keys = kept + (at + rows if mask is None else segment.length)
            where = [strip, cached, closed, first_t + at, new_row, num_prefix if place.has_prefix else 0, num_keys]
            tiles.append(
                [segment.slot, segment.row + at, rows, *where, mask_at + at if mask is not None else -1, width]
            )
    last_of_slot = {run[0]: run for run in runs}.values()
    device = kind.k.device
    return PrefillTables(
        torch.tensor(tiles, dtype=torch.int32, device=device),
        torch.tensor(list(last_of_slot), dtype=torch.int32, device=device),
        torch.cat([mask.flatten() for mask in flat]).to(device),
    )


def attend_prefill(
    q_NHD: Tensor,
    k_NKD: Tensor,
    v_NKD: Tensor,
    cache: LayerCache,
    tables: PrefillTables,
    scale: float,
    prefix: Prefix | None,
) -> Tensor:
    """All tiles over prefix [K, P, D], slots and own rows, then the new keys into the cache. Returns [N, H, D]; rows of
    no tile hold zeros."""
    kernels, kind = _kernels(), _Kind(cache)
    k_NKD, v_NKD = _dense_last(k_NKD), _dense_last(v_NKD)
    out, _ = _launch_prefill(q_NHD, k_NKD, v_NKD, cache, tables, scale, prefix)
    if len(tables.runs):
        kernels.keep[len(tables.runs), k_NKD.shape[1]](
            k_NKD, v_NKD, cache.k, cache.v, cache.global_starts_H, tables.runs,
            *k_NKD.stride()[:2], *v_NKD.stride()[:2], *cache.k.stride()[:2], kind.window, kind.global_size,
            FIELDS=kernels.RUN_FIELDS, D=k_NKD.shape[2], N=_TILE, G_UP=kind.global_size_up, HAS_STARTS=kind.is_sparse,
        )  # fmt: skip
    return out


def attend_prefix(q_NHD: Tensor, prefix: Prefix, scale: float) -> tuple[Tensor, Tensor]:
    """Every row over all keys of the prefix, [K, P, D] each. Returns [N, H, D] and the log-sum-exp, float32 [N, H]."""
    tiles = _prefix_tiles(len(q_NHD), _tile(q_NHD.dtype)[0], prefix[0].shape[1], q_NHD.device)
    none = q_NHD.new_empty(0, prefix[0].shape[0], q_NHD.shape[2])
    tables = PrefillTables(tiles, tiles[:0], torch.zeros(1, device=q_NHD.device))
    return _launch_prefill(q_NHD, none, none, None, tables, scale, prefix)


@functools.lru_cache(maxsize=8)
def _prefix_tiles(num_rows: int, tile: int, num_prefix: int, device: torch.device) -> Tensor:
    rows = [[0, at, min(tile, num_rows - at), 0, 0, 0, 0, 0, num_prefix, 0, -1, 0] for at in range(0, num_rows, tile)]
    return torch.tensor(rows, dtype=torch.int32, device=device)


def _launch_prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: LayerCache | None,
    tables: PrefillTables,
    scale: float,
    prefix: Prefix | None,
) -> tuple[Tensor, Tensor]:
    kernels, kind = _kernels(), _Kind(cache)
    q = _dense_last(q)
    num_rows, num_heads, dim = q.shape
    tile, block = _tile(q.dtype)
    prefix_k, prefix_v = prefix or (k, v)
    slots = (prefix_k, prefix_v, 0, 0) if cache is None else (cache.k, cache.v, *cache.k.stride()[:2])
    assert prefix is None or (prefix_k.stride() == prefix_v.stride() and prefix_k.stride()[1:] == (dim, 1))
    out = q.new_zeros(num_rows, num_heads, dim)
    lse = torch.full((num_rows, num_heads), -torch.inf, device=q.device)
    starts = tables.tiles if cache is None else cache.global_starts_H
    kernels.prefill[len(tables.tiles), num_heads](
        q, k, v, slots[0], slots[1], prefix_k, prefix_v, starts, tables.masks, tables.tiles, out, lse,
        *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], slots[2], slots[3],
        0 if prefix is None else prefix_k.stride(0), scale, num_heads, kind.window, kind.global_size,
        FIELDS=kernels.TILE_FIELDS, GROUP=num_heads // k.shape[1], D=dim, M=tile, N=block,
        HAS_STARTS=kind.is_sparse, HAS_MASKS=tables.masks.numel() > 1,
    )  # fmt: skip
    return out, lse


class _Kind:
    """What the kernels must know of a kind of layer; a dense one (or none) has windows that never close."""

    def __init__(self, cache: LayerCache | None) -> None:
        pattern = cache.shape.pattern if cache is not None else None
        self.is_sparse = pattern is not None
        self.window = pattern.window_size if pattern else 1
        self.global_size = pattern.global_size if pattern else 1
        self.global_size_up = 1 << (self.global_size - 1).bit_length()


def _tile(dtype: torch.dtype) -> tuple[int, int]:
    """Queries of a prefill's tile, and keys that it reads at a time."""
    return (_WIDE_TILE, _WIDE_BLOCK) if dtype == torch.float32 else (_TILE, _TILE)


def _dense_last(x: Tensor) -> Tensor:
    return x if x.stride(2) == 1 else x.contiguous()


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _kernels() -> ModuleType:
    from model.kernels import attention_triton

    return attention_triton
