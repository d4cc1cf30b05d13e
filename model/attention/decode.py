"""Attention of a decode step: one new token in each of some slots, over that slot's own keys and values.

Three ways to the same result. On a CPU a kernel of ours (`kernels/decode_attention.c`) reads every row's keys once,
at the speed of memory; where it cannot be compiled, one torch call a row does. On a GPU one masked call takes all rows,
where Triton's kernels (`attention/gpu.py`) do not take the heads.
On a CPU a row's bits depend on that row alone, whichever of the two ways is taken.
Legend: N rows, H heads, K key/value heads, S slots, C capacity, D head dim.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tirazh.model.attention.masked import additive_mask, attention_with_lse
from tirazh.model.kernels.build import load_kernel

_KINDS = {torch.float32: "float", torch.bfloat16: "bf16"}
_LENGTH_UNIT = 64  # a batched call reads a multiple of this many keys


@dataclass(frozen=True, slots=True)
class DecodeRows:
    """Row i of a decode step is in slot `slots[i]` (-1: idle), and its new key goes to index `ends[i]` of the slot's
    keys. int64 [N] both, on the CPU; `longest` is the highest of `ends` plus one."""

    slots: Tensor
    ends: Tensor
    longest: int


def decode_attention(
    q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, cache_k: Tensor, cache_v: Tensor, rows: DecodeRows, scale: float
) -> tuple[Tensor, Tensor]:
    """Put the rows' keys and values into the cache [S, K, C, D] and attend. Returns [N, H, D] and the log-sum-exp,
    float32 [N, H]; an idle row holds zeros and minus infinity."""
    way: Callable[..., tuple[Tensor, Tensor]] = attend_together
    if q_NHD.device.type == "cpu":
        is_compiled = q_NHD.dtype in _KINDS and load_kernel("decode_attention") is not None
        way = attend_compiled if is_compiled else attend_one_by_one
    return way(q_NHD, k_NKD, v_NKD, cache_k, cache_v, rows, scale)


def attend_compiled(
    q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, cache_k: Tensor, cache_v: Tensor, rows: DecodeRows, scale: float
) -> tuple[Tensor, Tensor]:
    """`decode_attention` by the compiled kernel; float32 and bfloat16 on a CPU."""
    kernel = load_kernel("decode_attention")
    assert kernel is not None
    num_rows, num_heads, dim = q_NHD.shape
    num_kv_heads = k_NKD.shape[1]
    q_NHD, k_NKD, v_NKD = (x if x.stride(2) == 1 else x.contiguous() for x in (q_NHD, k_NKD, v_NKD))
    out_NHD, lse_NH = q_NHD.new_empty(q_NHD.shape), torch.empty(num_rows, num_heads)
    arguments = [_strided(x) for x in (q_NHD, k_NKD, v_NKD)]
    # What the kernel takes on trust.
    assert cache_k.stride() == cache_v.stride()
    assert cache_k.stride()[2:] == (dim, 1)
    assert k_NKD.shape == v_NKD.shape == (num_rows, cache_k.shape[1], dim)
    assert rows.slots.shape == rows.ends.shape == (num_rows,)
    assert rows.longest <= cache_k.shape[2]
    assert cache_k.dtype == cache_v.dtype == k_NKD.dtype == v_NKD.dtype == q_NHD.dtype
    failed = getattr(kernel, f"decode_attention_{_KINDS[q_NHD.dtype]}")(
        *(argument for group in arguments for argument in group),
        *(_pointer(x) for x in (cache_k, cache_v)),
        *(ctypes.c_int64(stride) for stride in cache_k.stride()[:2]),
        *(_pointer(x) for x in (rows.slots, rows.ends)),
        *map(ctypes.c_int64, (num_rows, num_kv_heads, num_heads // num_kv_heads, dim)),
        ctypes.c_float(scale),
        *(_pointer(x) for x in (out_NHD, lse_NH)),
        ctypes.c_int64(rows.longest),
        ctypes.c_int(torch.get_num_threads()),
    )
    if failed:
        raise MemoryError(f"no memory for the attention scores of {rows.longest} keys")
    return out_NHD, lse_NH


def attend_one_by_one(
    q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, cache_k: Tensor, cache_v: Tensor, rows: DecodeRows, scale: float
) -> tuple[Tensor, Tensor]:
    """`decode_attention` by one torch call a row, in float32: narrower numbers are slow there for a single query."""
    out_NHD, lse_NH = torch.zeros_like(q_NHD), torch.full(q_NHD.shape[:2], -torch.inf)
    for row, (slot, end) in enumerate(zip(rows.slots.tolist(), rows.ends.tolist(), strict=True)):
        if slot < 0:
            continue
        cache_k[slot, :, end], cache_v[slot, :, end] = k_NKD[row], v_NKD[row]
        keys, values = (x[slot, :, : end + 1].float() for x in (cache_k, cache_v))
        # A product of one query rounds by where its thread's scratch memory happens to begin; one of two does not.
        query_HTD = q_NHD[row, :, None].float().expand(-1, 2, -1)
        out, lse = attention_with_lse(query_HTD, keys, values, scale, None)
        out_NHD[row], lse_NH[row] = out[:, 0], lse[:, 0]
    return out_NHD, lse_NH


def attend_together(
    q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, cache_k: Tensor, cache_v: Tensor, rows: DecodeRows, scale: float
) -> tuple[Tensor, Tensor]:
    """`decode_attention` by one masked call for all rows, on any device."""
    device = q_NHD.device
    active = (rows.slots >= 0).nonzero()[:, 0]
    slots, ends = rows.slots[active].to(device), rows.ends[active].to(device)
    cache_k[slots, :, ends], cache_v[slots, :, ends] = k_NKD[active.to(device)], v_NKD[active.to(device)]
    longest = min(-(-rows.longest // _LENGTH_UNIT) * _LENGTH_UNIT, cache_k.shape[2])
    is_visible = torch.arange(longest)[None] <= torch.where(rows.slots >= 0, rows.ends, 0)[:, None]
    mask = additive_mask(is_visible, cache_k)[:, None, None]
    keys, values = (_of_slots(x, rows.slots)[:, :, :longest] for x in (cache_k, cache_v))
    out, lse = attention_with_lse(q_NHD[:, :, None], keys, values, scale, mask)
    is_idle = (rows.slots < 0).to(device)
    return (
        out[:, :, 0].masked_fill(is_idle[:, None, None], 0),
        lse[:, :, 0].masked_fill(is_idle[:, None], -torch.inf),
    )


def _of_slots(cache: Tensor, slots: Tensor) -> Tensor:
    """[N, K, C, D] of the rows' slots: in place where row i is slot `first + i` or idle, else copied."""
    first = int((slots - torch.arange(len(slots)))[slots >= 0][0])
    is_run = torch.equal(torch.where(slots >= 0, slots - first, torch.arange(len(slots))), torch.arange(len(slots)))
    if is_run and first >= 0 and first + len(slots) <= cache.shape[0]:
        return cache[first : first + len(slots)]
    return cache[slots.clamp(min=0).to(cache.device)]


def _strided(x_NHD: Tensor) -> tuple[ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]:
    return _pointer(x_NHD), ctypes.c_int64(x_NHD.stride(0)), ctypes.c_int64(x_NHD.stride(1))


def _pointer(x: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data_ptr())
