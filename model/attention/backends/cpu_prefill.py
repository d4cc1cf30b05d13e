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

import torch
from torch import Tensor

from tirazh.model.attention.backends.interface import HeadType
from tirazh.model.attention.kv_cache import LayerCache, PrefixKV
from tirazh.model.attention.layer_shape import LayerKind
from tirazh.model.attention.prefill_chunks import PrefillChunks
from tirazh.model.config import SparsePattern
from tirazh.model.kernels.build import ELEMENT_TYPES, load_kernel
from tirazh.model.kernels.tables import ChunkRow, column

_HEAD_DIM_UNIT = 16


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
    Raises MemoryError.
    """
    table, masks = chunks.table
    is_sparse = cache.shape.kind is LayerKind.SPARSE
    closing = (cache.global_starts_H, cache.shape.sparse_pattern.global_size) if is_sparse else None
    return _call(q_NHD, k_NKD, v_NKD, (cache.k, cache.v), table, scale, prefix=prefix, masks=masks, closing=closing)


def attend_prefix(q_NHD: Tensor, prefix: PrefixKV, scale: float) -> tuple[Tensor, Tensor]:
    """Every row over all keys of the shared prefix [K, P, D]. Returns as `attend_compiled`."""
    table = torch.tensor([ChunkRow(slot=0, row=0, length=len(q_NHD), prefix_count=prefix.k.shape[1])])
    no_keys = q_NHD.new_empty(0, len(prefix.k), q_NHD.shape[2])
    return _call(q_NHD, no_keys, no_keys, (prefix.k[None], prefix.v[None]), table, scale, prefix=prefix)


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
    retained_k, retained_v = (x.expand(len(table), -1, -1, -1) for x in retained)
    return _call(q_THD, k_THD, v_THD, (retained_k, retained_v), table, scale)[0]


@functools.lru_cache(maxsize=64)
def _window_table(length: int, pattern: SparsePattern) -> Tensor:
    rows = []
    for index, start in enumerate(range(0, length, pattern.window_size)):
        size = min(pattern.window_size, length - start)
        rows.append(ChunkRow(slot=index, row=start, length=size, kept=index * pattern.global_size, num_own=size))
    return torch.tensor(rows)


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
    table: Tensor,
    scale: float,
    *,
    prefix: PrefixKV | None = None,
    masks: Tensor | None = None,
    closing: tuple[Tensor, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the kernel.

    `cache`: keys and values, [S, K, C, D] each; `closing`: where every head's global tokens begin
    in a window, int64 [K], and their number.
    """
    kernel = load_kernel("prefill_attention")
    assert kernel is not None
    q, k, v = (x if x.stride(2) == 1 else x.contiguous() for x in (q, k, v))
    _check(q, k, v, cache, table, prefix)
    cache_k, cache_v = cache
    prefix_k, prefix_v = prefix or (None, None)
    starts, global_size = closing or (None, 0)
    out = q.new_zeros(q.shape)
    lse = torch.full(q.shape[:2], -torch.inf)
    num_kv_heads, dim = k.shape[1:]
    arguments = KernelArguments(
        # The fields' order, which a test compares with the kernel's source.
        *(_address(x) for x in (q, k, v, prefix_k, prefix_v, cache_k, cache_v, out, lse, table, starts, masks)),
        *(stride for x in (q, k, v, cache_k) for stride in x.stride()[:2]),
        prefix_head=0 if prefix_k is None else prefix_k.stride(0),
        num_chunks=len(table),
        num_kv_heads=num_kv_heads,
        group=q.shape[1] // num_kv_heads,
        dim=dim,
        global_size=global_size,
        scale=scale,
    )
    run = getattr(kernel, f"prefill_attention_{ELEMENT_TYPES[q.dtype]}")
    if run(ctypes.byref(arguments), ctypes.c_int(torch.get_num_threads())):
        raise MemoryError("no memory for the keys of a prefill step")
    return out, lse


def _check(
    q: Tensor, k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor], table: Tensor, prefix: PrefixKV | None
) -> None:
    """Assert what the kernel relies on without checking it."""
    num_kv_heads, dim = k.shape[1:]
    assert table.is_contiguous()
    assert k.shape == v.shape
    assert q.shape[1] % num_kv_heads == 0
    for x in (*cache, *(prefix or ())):
        assert x.shape[-3] == num_kv_heads
        assert x.stride()[-2:] == (dim, 1) or 0 in x.shape
        assert x.dtype == q.dtype
    assert cache[0].stride() == cache[1].stride()
    assert prefix is None or prefix.k.stride() == prefix.v.stride()
    num_prefix = prefix.k.shape[1] if prefix else 0
    assert set(table[:, column(ChunkRow, "prefix_count")].tolist()) <= {0, num_prefix}


def _address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()
