"""A step's attention on a GPU: tables that say where every row's keys are, and the launches that read them.

The kernels are `kernels/attention_triton.py`. A step's shapes and addresses never change, so that a CUDA graph can hold
it (`engine/step_graph.py`). With TRITON_INTERPRET=1 the kernels run on a CPU, slowly, to be checked there.
Legend: N rows of the step, H heads, K key/value heads, S slots, C capacity, P tokens of the prefix, D head dim.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from tirazh.model.attention.cache_positions import CachePosition
from tirazh.model.attention.kv_cache import KVCache, LayerCache
from tirazh.model.attention.masked import attention_with_lse
from tirazh.model.kernels.triton_here import runs_triton


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Of a launch: queries of a tile, keys read at a time, warps, blocks of keys under way."""

    queries: int
    keys: int
    warps: int = 4
    stages: int = 2


_DECODE = _Sizes(1, 32, warps=2)
_PIECES, _TREES = _Sizes(64, 64), _Sizes(16, 64)
# Of float32, which is multiplied exactly: larger tiles do not fit a GPU's shared memory.
_WIDE = _Sizes(16, 16)
_WIDEST_HEAD = 128
_LEAST_LENGTHS = (128, 64, 64, 1 << 18)  # of padded tables: pieces, trees, runs, masks
_DENSE_END, _SPARSE_END = 1, 2  # columns of a decode step's table
DECODE_IDLE = (-1, 0, 0, -1, 0)  # a decode step's row that nothing runs in
Prefix = tuple[Tensor, Tensor]


def can_launch(like: Tensor) -> bool:
    """Whether the kernels take heads of such numbers, [..., D], here."""
    dim = like.shape[-1]
    most = _WIDEST_HEAD if like.dtype == torch.float32 else 2 * _WIDEST_HEAD
    return 16 <= dim <= most and dim & (dim - 1) == 0 and runs_triton(like)


@dataclass(frozen=True, slots=True)
class PrefillTables:
    """Tiles of queries of pieces and of trees, and runs of new tokens, of a prefill step in layers of one kind: int32
    [tiles, fields] and [runs, fields]; `masks` uint8, one behind the other. Rows of zeros are idle."""

    pieces: Tensor
    trees: Tensor
    runs: Tensor
    masks: Tensor

    @property
    def parts(self) -> tuple[Tensor, ...]:
        return self.pieces, self.trees, self.runs, self.masks

    def padded(self) -> PrefillTables:
        """With idle rows up to one of few lengths, so that few graphs hold all steps; no trees stay none."""
        pieces, trees, runs, masks = map(_padded, self.parts, _LEAST_LENGTHS)
        return PrefillTables(pieces, trees, runs, masks if len(trees) else self.masks)


class GpuPrefill:
    """The attention of one prefill step, made of its tables in sparse layers (True) and dense ones (False), on the
    cache's device."""

    def __init__(self, cache: KVCache, tables: Mapping[bool, PrefillTables]) -> None:
        self._cache, self._tables = cache, tables

    def attend(self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float) -> Tensor:
        """Take the rows' keys and values into the cache and attend. Returns [N, H, D]; padding rows hold anything."""
        cache = self._cache.layers[layer]
        tables = self._tables[cache.shape.pattern is not None]
        return attend_prefill(q_NHD, k_NKD, v_NKD, cache, tables, scale, _prefix_of(self._cache, layer))


class GpuDecode:
    """The attention of one decode step, made of a table alone; `attend` as in `cached_attention.StepAttention`."""

    def __init__(self, cache: KVCache, table: Tensor) -> None:
        """`table`: int32 [N, fields] by `decode_table`, on the cache's device."""
        self._cache, self._table = cache, table

    def attend(self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float) -> Tensor:
        """Take the rows' keys and values into the cache and attend. Returns [N, H, D]; idle rows hold anything."""
        prefix = _prefix_of(self._cache, layer)
        return attend_decode(q_NHD, k_NKD, v_NKD, self._cache.layers[layer], self._table, scale, prefix)


def _prefix_of(cache: KVCache, layer: int) -> Prefix | None:
    """Keys and values of the shared prefix that rows read in place, [K, P, D] each."""
    shared = cache.prefix.layers[layer] if cache.prefix else None
    return (shared.shared_k, shared.shared_v) if shared is not None and shared.shared_k.shape[1] else None


def decode_table(num_rows: int, places: Sequence[CachePosition]) -> Tensor:
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
    q_NHD: Tensor,
    k_NKD: Tensor,
    v_NKD: Tensor,
    cache: LayerCache,
    table: Tensor,
    scale: float,
    prefix: Prefix | None = None,
) -> Tensor:
    """Every row over the prefix [K, P, D], where it has it, and its slot's own keys. Returns [N, H, D]; an idle row
    holds anything."""
    kernels, kind = _kernels(), _Kind(cache)
    num_rows, num_heads, dim = q_NHD.shape
    q_NHD, k_NKD, v_NKD = (_dense_last(x) for x in (q_NHD, k_NKD, v_NKD))
    out = torch.empty_like(q_NHD, memory_format=torch.contiguous_format)
    part = _prefix_part(q_NHD, prefix, scale)
    # A row's heads before the next row: idle rows are mostly the last ones, and hold nobody up there.
    kernels.decode[num_heads, num_rows](
        q_NHD, k_NKD, v_NKD, cache.k, cache.v, part.out, part.lse, cache.global_starts_H, table, out,
        *q_NHD.stride()[:2], *k_NKD.stride()[:2], *v_NKD.stride()[:2], *cache.k.stride()[:2], *part.strides,
        scale, num_heads, kind.global_size,
        FIELDS=kernels.DECODE_FIELDS, END=_SPARSE_END if kind.is_sparse else _DENSE_END,
        GROUP=num_heads // k_NKD.shape[1], D=dim, N=_DECODE.keys, STAGES=_DECODE.stages,
        G_UP=kind.global_size_up, HAS_STARTS=kind.is_sparse, HAS_PREFIX=prefix is not None, num_warps=_DECODE.warps,
    )  # fmt: skip
    return out


def prefill_tables(places: Sequence[CachePosition], masks: Sequence[Tensor | None], kind: LayerCache) -> PrefillTables:
    """Tables of a step's segments in layers like `kind`, on the CPU. `masks[i]`: which of the last keys before it
    and of themselves the tokens of a tree see, bool [1 or H, T, keys + T] (None: a causal segment); they see all keys
    before those."""
    shape = _Kind(kind)
    window, size, is_sparse = shape.window, shape.global_size, shape.is_sparse
    laid_out = _Masks()
    pieces: list[list[int]] = []
    trees: list[list[int]] = []
    run_of: dict[int, tuple[int, int, int]] = {}  # by slot: strip, cached, row of the first new token
    runs: dict[int, list[int]] = {}
    next_row: dict[int, int] = {}
    for place, mask in zip(places, masks, strict=True):
        segment = place.segment
        strip, cached = (place.strip, place.open) if is_sparse else (0, place.dense)
        strip, cached, new_row = run_of.setdefault(segment.slot, (strip, cached, segment.row))
        # What a planner promises: all that a step takes of a sequence stands in rows one after the other.
        assert next_row.get(segment.slot, segment.row) == segment.row
        next_row[segment.slot] = segment.row + segment.length
        first_t = cached + segment.row - new_row
        end_t = first_t + segment.length
        if mask is None:
            runs[segment.slot] = [segment.slot, strip, cached, end_t, new_row]
        last_before = first_t if mask is None else max(0, first_t - 1)
        closed = last_before // window if is_sparse else 0
        num_keys = strip + closed * size + end_t - closed * window
        tile = _sizes(_PIECES if mask is None else _TREES, kind.k.dtype).queries
        for at in range(0, segment.length, tile):
            rows = min(tile, segment.length - at)
            own = [segment.slot, segment.row + at, rows, strip, cached, closed, first_t + at]
            if mask is None:
                pieces.append([*own, first_t + at + rows, new_row, int(place.has_prefix), -1, 0, 0])
            else:
                mask_at, width = laid_out.place(mask)
                from_key = num_keys - mask.shape[2]
                trees.append([*own, end_t, new_row, int(place.has_prefix), mask_at + at, width, from_key])

    def table(rows: list[list[int]]) -> Tensor:
        return torch.tensor(rows, dtype=torch.int32)

    return PrefillTables(table(pieces), table(trees), table(list(runs.values())), laid_out.flat())


def _padded(part: Tensor, least: int) -> Tensor:
    if not part.numel():
        return part
    length = max(least, 1 << (len(part) - 1).bit_length())
    return torch.cat([part, part.new_zeros(length - len(part), *part.shape[1:])])


class _Masks:
    """Masks one behind the other, each once, with keys for rows: a tile's queries lie side by side."""

    def __init__(self) -> None:
        self._placed: dict[int, tuple[int, int]] = {}
        self._parts: list[Tensor] = [torch.zeros(1, dtype=torch.uint8)]
        self._length = 1

    def place(self, mask: Tensor) -> tuple[int, int]:
        """Where a mask [1 or H, T, S] begins, and T, negative when all heads share it."""
        if id(mask) not in self._placed:
            num_heads, width = mask.shape[:2]
            self._placed[id(mask)] = self._length, width if num_heads > 1 else -width
            self._parts.append(mask.transpose(1, 2).to(torch.uint8).flatten())
            self._length += mask.numel()
        return self._placed[id(mask)]

    def flat(self) -> Tensor:
        return torch.cat(self._parts)


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
    no tile hold anything."""
    kernels, kind = _kernels(), _Kind(cache)
    num_heads, dim = q_NHD.shape[1:]
    q_NHD, k_NKD, v_NKD = (_dense_last(x) for x in (q_NHD, k_NKD, v_NKD))
    out = torch.empty_like(q_NHD, memory_format=torch.contiguous_format)
    part = _prefix_part(q_NHD, prefix, scale)
    for tiles, wanted in ((tables.pieces, _PIECES), (tables.trees, _TREES)):
        sizes = _sizes(wanted, q_NHD.dtype)
        if len(tiles):
            kernels.prefill[len(tiles), num_heads](
                q_NHD, k_NKD, v_NKD, cache.k, cache.v, part.out, part.lse, cache.global_starts_H, tables.masks, tiles,
                out,
                *q_NHD.stride()[:2], *k_NKD.stride()[:2], *v_NKD.stride()[:2], *cache.k.stride()[:2], *part.strides,
                scale, num_heads, kind.window, kind.global_size,
                FIELDS=kernels.TILE_FIELDS, GROUP=num_heads // k_NKD.shape[1], D=dim, M=sizes.queries, N=sizes.keys,
                HAS_STARTS=kind.is_sparse, HAS_MASKS=tiles is tables.trees, HAS_PREFIX=prefix is not None,
                num_warps=sizes.warps, num_stages=sizes.stages,
            )  # fmt: skip
    if len(tables.runs):
        kernels.keep[len(tables.runs), k_NKD.shape[1]](
            k_NKD, v_NKD, cache.k, cache.v, cache.global_starts_H, tables.runs,
            *k_NKD.stride()[:2], *v_NKD.stride()[:2], *cache.k.stride()[:2], kind.window, kind.global_size,
            FIELDS=kernels.RUN_FIELDS, D=dim, N=_DECODE.keys, G_UP=kind.global_size_up, HAS_STARTS=kind.is_sparse,
        )  # fmt: skip
    return out


def attend_prefix(q_NHD: Tensor, prefix: Prefix, scale: float) -> tuple[Tensor, Tensor]:
    """Every row over all keys of the prefix, [K, P, D] each. Returns [N, H, D] and the log-sum-exp, float32 [H, N]."""
    q_HND, groups = q_NHD.transpose(0, 1), q_NHD.shape[1] // prefix[0].shape[0]
    if q_NHD.is_cuda and q_NHD.dtype != torch.float32:
        q, k, v = (x[None] for x in (q_HND, *(x.repeat_interleave(groups, dim=0) if groups > 1 else x for x in prefix)))
        if _has_hopper_attention(q.device, q.shape[-1]):
            attend = torch.ops.aten._scaled_dot_product_cudnn_attention
            out, lse, *_ = attend(q, k, v, None, True, 0.0, False, False, scale=scale)
        else:
            attend = torch.ops.aten._scaled_dot_product_flash_attention
            out, lse, *_ = attend(q, k, v, 0.0, False, False, scale=scale)
        return out[0].transpose(0, 1), lse.view(lse.shape[1:3])
    out, lse = attention_with_lse(q_HND, *prefix, scale, None)
    return out.transpose(0, 1), lse


@dataclass(frozen=True, slots=True)
class _PrefixPart:
    """Attention over the prefix as the kernels begin with it; what they are given where there is none is not read."""

    out: Tensor
    lse: Tensor
    strides: tuple[int, ...]


def _prefix_part(q_NHD: Tensor, prefix: Prefix | None, scale: float) -> _PrefixPart:
    if prefix is None:
        return _PrefixPart(q_NHD, q_NHD, (0, 0, 0))
    out, lse = attend_prefix(q_NHD, prefix, scale)
    out, lse = _dense_last(out), lse.contiguous()
    return _PrefixPart(out, lse, (*out.stride()[:2], lse.stride(0)))


class _Kind:
    """What the kernels must know of a kind of layer; a dense one has windows that never close."""

    def __init__(self, cache: LayerCache) -> None:
        pattern = cache.shape.pattern
        self.is_sparse = pattern is not None
        self.window = pattern.window_size if pattern else 1
        self.global_size = pattern.global_size if pattern else 1
        self.global_size_up = 1 << (self.global_size - 1).bit_length()


@functools.cache
def _has_hopper_attention(device: torch.device, dim: int) -> bool:
    """Whether cuDNN's attention is the faster one: 1.6 times on an H100."""
    is_new = torch.cuda.get_device_capability(device)[0] >= 9 and dim <= 128 and dim % 8 == 0
    return is_new and torch.backends.cudnn.is_available()


def _sizes(wanted: _Sizes, dtype: torch.dtype) -> _Sizes:
    return _WIDE if dtype == torch.float32 else wanted


def _dense_last(x: Tensor) -> Tensor:
    return x if x.stride(2) == 1 else x.contiguous()


@functools.cache
def _kernels() -> ModuleType:
    from tirazh.model.kernels import attention_triton

    return attention_triton
