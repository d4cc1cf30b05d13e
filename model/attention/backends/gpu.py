"""The GPU backend: Triton kernels that read a step's tables, one launch per layer to decode and two
to prefill.

The kernels are in `kernels/attention_triton.py`, the tables in `backends/gpu_tables.py`. A step's
shapes and addresses do not change, so a CUDA graph can hold it (`engine/step_graph.py`). With
TRITON_INTERPRET=1 the kernels run on a CPU, slowly, for tests.
Legend: N rows of the step, H heads, K key/value heads, P tokens of the prefix, D head dim.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from tirazh.model.attention.backends.gpu_tables import (
    PrefillTables,
    TileSizes,
    decode_table,
    idle_decode_table,
    prefill_tables,
)
from tirazh.model.attention.backends.interface import GraphInputs, HeadType, StepAttention
from tirazh.model.attention.kv_cache import KVCache, LayerCache, PrefixKV
from tirazh.model.attention.layer_shape import LayerKind
from tirazh.model.attention.masked import attention_with_lse
from tirazh.model.attention.step_layout import StepLayout
from tirazh.model.kernels.tables import DecodeRow, column
from tirazh.model.kernels.triton_here import runs_triton
from tirazh.model.step import Phase
from tirazh.model.transfer import to_device


@dataclass(frozen=True, slots=True)
class _Launch:
    """Queries per tile, keys read at a time, warps, and blocks of keys in flight."""

    queries: int
    keys: int
    warps: int = 4
    stages: int = 2


_DECODE = _Launch(1, 32, warps=2)
_CHUNKS, _TREES = _Launch(64, 64), _Launch(16, 64)
# float32 is multiplied exactly (no TF32); larger tiles of it do not fit into a GPU's shared memory.
_FLOAT32 = _Launch(16, 16)
_WIDEST_HEAD, _WIDEST_FLOAT32_HEAD = 256, 128  # elements


class GpuBackend:
    """Attention by Triton, for heads of 16 to 256 elements (float32: 128), a power of two."""

    def supports(self, heads: HeadType, phase: Phase) -> bool:
        dim = heads.head_dim
        widest = _WIDEST_FLOAT32_HEAD if heads.dtype == torch.float32 else _WIDEST_HEAD
        return 16 <= dim <= widest and dim & (dim - 1) == 0 and runs_triton(heads.device)

    def build(self, layout: StepLayout, cache: KVCache) -> StepAttention:
        tables = _step_tables(layout, cache, is_padded=False)
        return self.bind(cache, layout.step.phase, [to_device(table, cache.device) for table in tables])

    def graph_inputs(self, layout: StepLayout, cache: KVCache) -> GraphInputs:
        values = _step_tables(layout, cache, is_padded=True)
        if layout.step.phase == "decode":
            return GraphInputs(values, (idle_decode_table(len(layout.step.token_ids)),))
        return GraphInputs(values, tuple(torch.zeros_like(table) for table in values))

    def row_slots(self, inputs: Sequence[Tensor]) -> Tensor:
        (table,) = inputs
        return table[:, column(DecodeRow, "slot")]

    def bind(self, cache: KVCache, phase: Phase, inputs: Sequence[Tensor]) -> StepAttention:
        if phase == "decode":
            (table,) = inputs
            return _GpuDecode(cache, table)
        each = iter(inputs)
        num_tables = len(PrefillTables._fields)
        tables = {kind: PrefillTables(*itertools.islice(each, num_tables)) for kind in cache.layer_of_kind}
        return _GpuPrefill(cache, tables)


def _step_tables(layout: StepLayout, cache: KVCache, *, is_padded: bool) -> tuple[Tensor, ...]:
    """The tables of a step on the CPU: one to decode, to prefill those of every kind of layer in
    turn."""
    if layout.step.phase == "decode":
        return (decode_table(len(layout.step.token_ids), layout.contexts),)
    sizes = TileSizes(_launch(_CHUNKS, cache.dtype).queries, _launch(_TREES, cache.dtype).queries)
    tables = [prefill_tables(layout.contexts, layer, sizes) for layer in cache.layer_of_kind.values()]
    return tuple(table for each in tables for table in (each.padded() if is_padded else each))


class _GpuDecode:
    """The attention of the decode step that a table on the device describes."""

    def __init__(self, cache: KVCache, table: Tensor) -> None:
        self._cache, self._table = cache, table

    def attend(self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float) -> Tensor:
        prefix = self._cache.prefix_kv(layer)
        return attend_decode(q_NHD, k_NKD, v_NKD, self._cache.layers[layer], self._table, scale, prefix)


class _GpuPrefill:
    """The attention of the prefill step that tables on the device describe."""

    def __init__(self, cache: KVCache, tables: Mapping[LayerKind, PrefillTables]) -> None:
        self._cache, self._tables = cache, tables

    def attend(self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float) -> Tensor:
        cache = self._cache.layers[layer]
        prefix = self._cache.prefix_kv(layer)
        return attend_prefill(q_NHD, k_NKD, v_NKD, cache, self._tables[cache.shape.kind], scale, prefix)


def attend_decode(
    q_NHD: Tensor,
    k_NKD: Tensor,
    v_NKD: Tensor,
    cache: LayerCache,
    table: Tensor,
    scale: float,
    prefix: PrefixKV | None = None,
) -> Tensor:
    """Every row over the prefix [K, P, D], if the row has it, and its slot's own keys, which the
    new key joins.

    `table`: int32 [N, fields of DecodeRow] on the device. Returns [N, H, D]; an idle row holds
    arbitrary values.
    """
    kernels, layer = _kernels(), _LayerConstants.of(cache)
    num_rows, num_heads, dim = q_NHD.shape
    q_NHD, k_NKD, v_NKD = (_with_contiguous_heads(x) for x in (q_NHD, k_NKD, v_NKD))
    out = torch.empty_like(q_NHD, memory_format=torch.contiguous_format)
    part = _prefix_part(q_NHD, prefix, scale)
    # Heads are the first dimension of the grid: programs start in this order, and idle rows, which
    # end at once, are mostly the last rows.
    kernels.decode[num_heads, num_rows](
        q_NHD, k_NKD, v_NKD, cache.k, cache.v, part.out, part.lse, cache.global_starts_H, table, out,
        *q_NHD.stride()[:2], *k_NKD.stride()[:2], *v_NKD.stride()[:2], *cache.k.stride()[:2], *part.strides,
        scale, num_heads, layer.global_size,
        END=column(DecodeRow, "sparse_end" if layer.is_sparse else "dense_end"),
        GROUP=num_heads // k_NKD.shape[1], D=dim, N=_DECODE.keys, STAGES=_DECODE.stages,
        G_UP=layer.global_size_up, HAS_STARTS=layer.is_sparse, HAS_PREFIX=prefix is not None, num_warps=_DECODE.warps,
    )  # fmt: skip
    return out


def attend_prefill(
    q_NHD: Tensor,
    k_NKD: Tensor,
    v_NKD: Tensor,
    cache: LayerCache,
    tables: PrefillTables,
    scale: float,
    prefix: PrefixKV | None,
) -> Tensor:
    """All tiles over the prefix [K, P, D], their slots and the step's own rows; then the new keys
    go into the cache.

    Returns [N, H, D]; rows of no tile hold arbitrary values.
    """
    kernels, layer = _kernels(), _LayerConstants.of(cache)
    num_heads, dim = q_NHD.shape[1:]
    q_NHD, k_NKD, v_NKD = (_with_contiguous_heads(x) for x in (q_NHD, k_NKD, v_NKD))
    out = torch.empty_like(q_NHD, memory_format=torch.contiguous_format)
    part = _prefix_part(q_NHD, prefix, scale)
    for tiles, wanted in ((tables.chunk_tiles, _CHUNKS), (tables.tree_tiles, _TREES)):
        launch = _launch(wanted, q_NHD.dtype)
        if len(tiles):
            kernels.prefill[len(tiles), num_heads](
                q_NHD, k_NKD, v_NKD, cache.k, cache.v, part.out, part.lse, cache.global_starts_H, tables.masks, tiles,
                out,
                *q_NHD.stride()[:2], *k_NKD.stride()[:2], *v_NKD.stride()[:2], *cache.k.stride()[:2], *part.strides,
                scale, num_heads, layer.window, layer.global_size,
                GROUP=num_heads // k_NKD.shape[1], D=dim, M=launch.queries, N=launch.keys,
                HAS_STARTS=layer.is_sparse, HAS_MASKS=tiles is tables.tree_tiles, HAS_PREFIX=prefix is not None,
                num_warps=launch.warps, num_stages=launch.stages,
            )  # fmt: skip
    if len(tables.runs):
        kernels.keep[len(tables.runs), k_NKD.shape[1]](
            k_NKD, v_NKD, cache.k, cache.v, cache.global_starts_H, tables.runs,
            *k_NKD.stride()[:2], *v_NKD.stride()[:2], *cache.k.stride()[:2], layer.window, layer.global_size,
            D=dim, N=_DECODE.keys, G_UP=layer.global_size_up, HAS_STARTS=layer.is_sparse,
        )  # fmt: skip
    return out


def attend_prefix(q_NHD: Tensor, prefix: PrefixKV, scale: float) -> tuple[Tensor, Tensor]:
    """Every row over all keys of the prefix, [K, P, D] each.

    Returns [N, H, D] and the log-sum-exp, float32 [H, N].
    """
    q_HND, group = q_NHD.transpose(0, 1), q_NHD.shape[1] // prefix.k.shape[0]
    if q_NHD.is_cuda and q_NHD.dtype != torch.float32:
        k_HPD, v_HPD = (x.repeat_interleave(group, dim=0) if group > 1 else x for x in prefix)
        q, k, v = q_HND[None], k_HPD[None], v_HPD[None]
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
    """Attention over the prefix, with which the kernels begin.

    Without a prefix the tensors are never read.
    """

    out: Tensor
    lse: Tensor
    strides: tuple[int, ...]


def _prefix_part(q_NHD: Tensor, prefix: PrefixKV | None, scale: float) -> _PrefixPart:
    if prefix is None:
        return _PrefixPart(q_NHD, q_NHD, (0, 0, 0))
    out, lse = attend_prefix(q_NHD, prefix, scale)
    out, lse = _with_contiguous_heads(out), lse.contiguous()
    return _PrefixPart(out, lse, (*out.stride()[:2], lse.stride(0)))


@dataclass(frozen=True, slots=True)
class _LayerConstants:
    """What the kernels must know of a layer.

    Those of a dense layer read neither `window` nor `global_size`.
    """

    is_sparse: bool
    window: int
    global_size: int

    @classmethod
    def of(cls, cache: LayerCache) -> _LayerConstants:
        if cache.shape.kind is LayerKind.DENSE:
            return cls(is_sparse=False, window=1, global_size=1)
        pattern = cache.shape.sparse_pattern
        return cls(is_sparse=True, window=pattern.window_size, global_size=pattern.global_size)

    @property
    def global_size_up(self) -> int:
        """`global_size` rounded up to a power of two, which a Triton range must be."""
        return 1 << (self.global_size - 1).bit_length()


@functools.cache
def _has_hopper_attention(device: torch.device, dim: int) -> bool:
    """Whether to use cuDNN's attention: on an H100 it is 1.6 times as fast as the flash attention
    in torch."""
    is_new = torch.cuda.get_device_capability(device)[0] >= 9 and dim <= 128 and dim % 8 == 0
    return is_new and torch.backends.cudnn.is_available()


def _launch(wanted: _Launch, dtype: torch.dtype) -> _Launch:
    return _FLOAT32 if dtype == torch.float32 else wanted


def _with_contiguous_heads(x: Tensor) -> Tensor:
    return x if x.stride(2) == 1 else x.contiguous()


@functools.cache
def _kernels() -> ModuleType:
    """The Triton module; imported late, because Triton is not installed everywhere."""
    from tirazh.model.kernels import attention_triton

    return attention_triton
