"""Calls the C kernel of a decode step, `kernels/decode_attention.c`: one new token in each of some
slots.

The kernel reads every row's keys once, at the speed of memory. A row's bits depend on that row
alone.
Legend: N rows, H heads, K key/value heads, S slots, C capacity of a slot, D head dim.
"""

from __future__ import annotations

import ctypes

from torch import Tensor

from tirazh.model.attention.backends.interface import HeadType
from tirazh.model.attention.step_layout import DecodeRows
from tirazh.model.kernels.build import ELEMENT_TYPES, load_kernel
from tirazh.model.kernels.calls import KernelCall, address


def supports(heads: HeadType) -> bool:
    """Whether the kernel takes such heads on this machine; their width does not matter."""
    takes_heads = heads.device.type == "cpu" and heads.dtype in ELEMENT_TYPES
    return takes_heads and load_kernel("decode_attention") is not None


def attend_call(  # noqa: PLR0913 - the fields of the kernel's structure
    q_NHD: Tensor,
    k_NKD: Tensor,
    v_NKD: Tensor,
    cache_k: Tensor,
    cache_v: Tensor,
    rows: DecodeRows,
    scale: float,
    out_NHD: Tensor,
    lse_NH: Tensor,
) -> KernelCall:
    """Prepare a call that puts the rows' keys and values into the cache, [S, K, C, D], and attends.

    All are float32 or bfloat16. `out_NHD` gets the result and `lse_NH` the log-sum-exp of the scores, float32; an idle
    row gets zeros and minus infinity. Both are contiguous. Queries, keys and values are read when the call runs if
    their D is contiguous.
    Raises ValueError for rows outside the cache.
    """
    kernel = load_kernel("decode_attention")
    assert kernel is not None
    num_rows, num_heads, dim = q_NHD.shape
    num_kv_heads = k_NKD.shape[1]
    q_NHD, k_NKD, v_NKD = (x if x.stride(2) == 1 else x.contiguous() for x in (q_NHD, k_NKD, v_NKD))
    _check(q_NHD, k_NKD, v_NKD, cache_k, cache_v, rows)
    tensors = (q_NHD, k_NKD, v_NKD, cache_k, cache_v, out_NHD, lse_NH, rows.slots, rows.ends)
    arguments = DecodeArguments(
        *map(address, tensors),
        *(stride for x in (q_NHD, k_NKD, v_NKD, cache_k) for stride in x.stride()[:2]),
        *(num_rows, num_kv_heads, num_heads // num_kv_heads, dim, rows.longest),
        scale,
    )
    return KernelCall(getattr(kernel, f"decode_attention_{ELEMENT_TYPES[q_NHD.dtype]}"), arguments, tensors)


_POINTERS = "q new_k new_v cache_k cache_v out lse slots ends"
_INTEGERS = "q_row q_head k_row k_head v_row v_head slot_stride head_stride num_rows num_kv_heads group dim longest"


class DecodeArguments(ctypes.Structure):
    """The structure `arguments` of the kernel, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS.split()),
        *((name, ctypes.c_int64) for name in _INTEGERS.split()),
        ("scale", ctypes.c_float),
    )


def _check(q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, cache_k: Tensor, cache_v: Tensor, rows: DecodeRows) -> None:
    """Raise ValueError unless everything holds that the kernel relies on; it checks nothing."""
    num_rows, num_heads, dim = q_NHD.shape
    num_slots, num_kv_heads, capacity, _ = cache_k.shape
    fits = (
        cache_k.shape == cache_v.shape
        and cache_k.stride() == cache_v.stride()
        and cache_k.stride()[2:] == (dim, 1)
        and k_NKD.shape == v_NKD.shape == (num_rows, num_kv_heads, dim)
        and num_heads % num_kv_heads == 0
        and cache_k.dtype == cache_v.dtype == k_NKD.dtype == v_NKD.dtype == q_NHD.dtype
        and len(rows.slots) == num_rows
    )
    if not fits:
        shapes = ", ".join(f"{x.dtype} {list(x.shape)}" for x in (q_NHD, k_NKD, v_NKD, cache_k, cache_v, rows.slots))
        raise ValueError(f"queries, keys, values, caches and rows of a decode step do not fit together: {shapes}")
    rows.check(num_slots, capacity)
