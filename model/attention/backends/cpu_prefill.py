"""Calls the C kernel of a prefill step, `kernels/prefill_attention.c`: all chunks of a step in one
call.

Whole sequences (`attention/full_sequence.py`) and the shared prefix go through the same kernel with
tables of their own. A row's bits depend on its own chunk alone.
Legend: N rows, T rows of a chunk, H heads, K key/value heads, P tokens of the shared prefix, S
slots, C capacity of a slot, D head dim.
"""

from __future__ import annotations

import ctypes
import functools
from typing import cast

import torch
from torch import Tensor

from tirazh.model.attention.backends.interface import HeadType
from tirazh.model.attention.chunk_table import ChunkLimits, ChunkTable
from tirazh.model.attention.kv_cache import LayerCache, PrefixKV
from tirazh.model.attention.layer_shape import LayerKind
from tirazh.model.attention.prefill_chunks import PrefillChunks
from tirazh.model.config import SparsePattern
from tirazh.model.kernels.build import ELEMENT_TYPES, load_kernel
from tirazh.model.kernels.calls import KernelCall, address
from tirazh.model.kernels.tables import ChunkRow

_HEAD_DIM_UNIT = 16

# What a call fills: the output [N, H, D] in the dtype of the queries, and the log-sum-exp of its scores, float32
# [N, H]; both contiguous.
Results = tuple[Tensor, Tensor]


def supports(heads: HeadType) -> bool:
    """Whether the kernel takes such heads on this machine."""
    takes_heads = heads.device.type == "cpu" and heads.dtype in ELEMENT_TYPES and heads.head_dim % _HEAD_DIM_UNIT == 0
    return takes_heads and load_kernel("prefill_attention") is not None


def attend_compiled(
    q_NHD: Tensor,
    k_NKD: Tensor,
    v_NKD: Tensor,
    cache: LayerCache,
    chunks: PrefillChunks,
    scale: float,
    prefix: PrefixKV | None = None,
) -> tuple[Tensor, Tensor]:
    """All chunks over the shared prefix [K, P, D], their slots and themselves.

    Changes the cache as the chunks say.

    Returns [N, H, D] and the log-sum-exp of the scores, float32 [N, H]; rows of no chunk hold zeros
    and minus infinity.
    Raises MemoryError, and ValueError for chunks outside the cache.
    """
    results = _empty_results(q_NHD)
    call = attend_call(q_NHD, k_NKD, v_NKD, cache, scale, prefix, results)
    set_chunks(call, chunks.table, cache, prefix)
    call.run()
    return results


def attend_call(
    q_NHD: Tensor,
    k_NKD: Tensor,
    v_NKD: Tensor,
    cache: LayerCache,
    scale: float,
    prefix: PrefixKV | None,
    results: Results,
) -> KernelCall:
    """Prepare the call of `attend_compiled` for steps of at most N rows, whose chunks `set_chunks` gives it; rows of no
    chunk keep what `results` hold. Queries, keys and values are read when it runs if their D is contiguous. Raises
    ValueError."""
    starts, global_size = None, 0
    if cache.shape.kind is LayerKind.SPARSE:
        starts, global_size = cache.global_starts_H, cache.shape.sparse_pattern.global_size
    return _call(q_NHD, k_NKD, v_NKD, (cache.k, cache.v), scale, results, prefix, starts, global_size)


def set_chunks(call: KernelCall, table: ChunkTable, cache: LayerCache, prefix: PrefixKV | None) -> None:
    """Set the chunks of a call of `attend_call` with the same cache and prefix; the table must live until it has run.
    Raises ValueError for chunks outside them, and outside N rows."""
    reach = 0
    if cache.shape.kind is LayerKind.SPARSE and cache.shape.global_starts:
        reach = max(cache.shape.global_starts) + cache.shape.sparse_pattern.global_size
    _set_table(call, table, num_prefix=prefix.k.shape[1] if prefix else 0, reach=reach)


def prefix_call(q_NHD: Tensor, prefix: PrefixKV, scale: float, results: Results) -> KernelCall:
    """Prepare attention of rows over all keys of the shared prefix [K, P, D]; `set_num_rows` says how many of the N
    rows. Queries are read when it runs if their D is contiguous."""
    no_keys = q_NHD.new_empty(0, len(prefix.k), q_NHD.shape[2])
    return _call(q_NHD, no_keys, no_keys, (prefix.k[None], prefix.v[None]), scale, results, prefix)


def set_num_rows(call: KernelCall, num_rows: int, prefix: PrefixKV) -> None:
    """Set the number of rows of a call of `prefix_call`. Raises ValueError for more than N."""
    num_prefix = prefix.k.shape[1]
    _set_table(call, _prefix_table(num_rows, num_prefix), num_prefix=num_prefix)


@functools.lru_cache(maxsize=64)
def _prefix_table(num_rows: int, num_prefix: int) -> ChunkTable:
    return ChunkTable([ChunkRow(slot=0, row=0, length=num_rows, prefix_count=num_prefix)])


def attend_windows(
    q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, retained: tuple[Tensor, Tensor], pattern: SparsePattern, scale: float
) -> Tensor:
    """A whole sequence in a sparse layer: each window over the global tokens of the windows before
    it and itself.

    `retained`: keys and values of each head's global tokens of all windows, [H, T // W * G, D].
    Returns [T, H, D].
    """
    table = _window_table(len(q_THD), pattern)
    # Every window is a slot of its own; all slots are the same memory, of which later windows see more.
    retained_k, retained_v = (x.expand(len(table.rows), -1, -1, -1) for x in retained)
    results = _empty_results(q_THD)
    call = _call(q_THD, k_THD, v_THD, (retained_k, retained_v), scale, results)
    _set_table(call, table)
    call.run()
    return results[0]


@functools.lru_cache(maxsize=64)
def _window_table(length: int, pattern: SparsePattern) -> ChunkTable:
    rows = []
    for index, start in enumerate(range(0, length, pattern.window_size)):
        size = min(pattern.window_size, length - start)
        rows.append(ChunkRow(slot=index, row=start, length=size, kept=index * pattern.global_size, num_own=size))
    return ChunkTable(rows)


_POINTERS = "q new_k new_v prefix_k prefix_v cache_k cache_v out lse chunks starts masks"
_INTEGERS = (
    "q_row q_head k_row k_head v_row v_head slot_stride head_stride prefix_head "
    "num_chunks num_kv_heads group dim global_size"
)


class KernelArguments(ctypes.Structure):
    """The structure `arguments` of the kernel, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS.split()),
        *((name, ctypes.c_int64) for name in _INTEGERS.split()),
        ("scale", ctypes.c_float),
    )


def _call(  # noqa: PLR0913 - the fields of the kernel's structure
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: tuple[Tensor, Tensor],
    scale: float,
    results: Results,
    prefix: PrefixKV | None = None,
    starts: Tensor | None = None,
    global_size: int = 0,
) -> KernelCall:
    """Prepare the kernel's call without chunks.

    `cache`: keys and values, [S, K, C, D] each; `starts` and `global_size`: of a sparse layer, whose windows may be
    closed.
    """
    kernel = load_kernel("prefill_attention")
    assert kernel is not None
    q, k, v = (x if x.stride(2) == 1 else x.contiguous() for x in (q, k, v))
    _check(q, k, v, cache, prefix, starts)
    num_kv_heads, dim = k.shape[1:]
    tensors = (q, k, v, *(prefix or (None, None)), *cache, *results, None, starts, None)
    arguments = KernelArguments(
        *map(address, tensors),  # in the order of the fields, which a test compares with the kernel's source
        *(stride for x in (q, k, v, cache[0]) for stride in x.stride()[:2]),
        prefix_head=0 if prefix is None else prefix.k.stride(0),
        num_chunks=0,
        num_kv_heads=num_kv_heads,
        group=q.shape[1] // num_kv_heads,
        dim=dim,
        global_size=global_size,
        scale=scale,
    )
    return KernelCall(getattr(kernel, f"prefill_attention_{ELEMENT_TYPES[q.dtype]}"), arguments, tensors)


def _set_table(call: KernelCall, table: ChunkTable, *, num_prefix: int = 0, reach: int = 0) -> None:
    q, k, cache_k = (cast(Tensor, call.tensors[index]) for index in (0, 1, 5))
    num_slots, _, capacity, _ = cache_k.shape
    # Not len(), which takes microseconds.
    limits = ChunkLimits(q.shape[0], k.shape[0], q.shape[1], num_slots, capacity, num_prefix, reach)
    table.check(limits)
    call.arguments.chunks, call.arguments.masks = address(table.rows), address(table.masks)
    call.arguments.num_chunks = len(table.rows)


def _empty_results(q: Tensor) -> Results:
    return q.new_zeros(q.shape), torch.full(q.shape[:2], -torch.inf)


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: tuple[Tensor, Tensor],
    prefix: PrefixKV | None,
    starts: Tensor | None,
) -> None:
    """Raise ValueError unless the tensors have the form that the kernel relies on; it checks nothing."""
    num_kv_heads, dim = k.shape[1:]
    stored = (*cache, *(prefix or ()))
    fits = (
        k.shape == v.shape
        and q.shape[2] == dim
        and dim % _HEAD_DIM_UNIT == 0
        and q.shape[1] % num_kv_heads == 0
        and all(x.shape[-3] == num_kv_heads and x.shape[-1] == dim and x.dtype == q.dtype for x in stored)
        and k.dtype == v.dtype == q.dtype
        and all(x.stride()[-2:] == (dim, 1) or 0 in x.shape for x in stored)
        and (cache[0].shape, cache[0].stride()) == (cache[1].shape, cache[1].stride())
        and (prefix is None or (prefix.k.shape, prefix.k.stride()) == (prefix.v.shape, prefix.v.stride()))
        and (starts is None or len(starts) == num_kv_heads)
    )
    if not fits:
        shapes = ", ".join(f"{x.dtype} {list(x.shape)}" for x in (q, k, v, *stored))
        raise ValueError(f"queries, keys, values, caches and prefix of a prefill step do not fit together: {shapes}")
