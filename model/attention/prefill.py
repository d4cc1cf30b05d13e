"""Attention of a prefill step: pieces of sequences, each over the keys kept before it and over its own.

Two ways to the same result. On a CPU a kernel of ours (`kernels/prefill_attention.c`) takes all pieces of a step in one
call; elsewhere, and where it cannot be compiled, torch takes one piece after the other. Either way a row's bits depend
on its own piece alone.
Legend: N rows, T rows of a piece, H heads, K key/value heads, P tokens of the shared prefix, S slots, C capacity of a
slot, D head dim.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tirazh.model.attention.kv_cache import LayerCache
from tirazh.model.attention.masked import additive_mask, attention_with_lse
from tirazh.model.config import SparsePattern
from tirazh.model.kernels.build import load_kernel

_KINDS = {torch.float32: "float", torch.bfloat16: "bf16"}
_HEAD_DIM_UNIT = 16
_PREFIX_COUNT = 3  # column of the kernel's table
_MASK_UNIT = 32  # a mask's queries are padded to a multiple of this


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Rows `row` to `row + length` continue the sequence in `slot`, behind `num_prefix` tokens of the shared prefix
    (all or none of it) and `num_kept` keys in the slot's cache.

    `close_at`: the slot's window, which begins at this key, is full and is closed first (None: it is not).
    `visible`: None for a causal piece, whose keys are kept after the others. Else bool [1 or H, T, num_kept + T]: what
    each row sees of the keys kept and of the piece's own, which are not kept.
    """

    slot: int
    row: int
    length: int
    num_kept: int
    num_prefix: int = 0
    close_at: int | None = None
    visible: Tensor | None = None


class PrefillChunks:
    """The pieces of a step in the order of their rows, the same in every layer of a kind."""

    def __init__(self, pieces: Sequence[PrefillChunk]) -> None:
        self.pieces = tuple(pieces)
        self._masks: dict[int, Tensor] = {}

    @functools.cached_property
    def table(self) -> tuple[Tensor, Tensor]:
        """What the kernel reads: its numbers, int64 [pieces, fields], and all masks, float32, one behind the other."""
        masks = [torch.zeros(0)]
        rows, size = [], 0
        for piece in self.pieces:
            close_at = -1 if piece.close_at is None else piece.close_at
            is_causal = piece.visible is None
            mask_at, mask_head = -1, 0
            if piece.visible is not None:
                heads, length, num_keys = piece.visible.shape
                width = -(-length // _MASK_UNIT) * _MASK_UNIT
                mask = torch.zeros(heads, num_keys, width)
                mask[:, :, :length].masked_fill_(~piece.visible.transpose(1, 2), -torch.inf)
                mask_at, mask_head = size, num_keys * width if heads > 1 else 0
                masks.append(mask.flatten())
                size += mask.numel()
            numbers = [piece.slot, piece.row, piece.length, piece.num_prefix, close_at, piece.num_kept, piece.length]
            rows.append([*numbers, int(is_causal), mask_at, mask_head])
        return torch.tensor(rows), torch.cat(masks)

    def mask(self, index: int, like: Tensor) -> Tensor:
        """Additive mask of a piece for torch, [1 or H, T, num_kept + T]; made once for all layers."""
        if index not in self._masks:
            piece = self.pieces[index]
            visible = piece.visible
            if visible is None:
                keys = piece.num_kept + piece.length
                visible = torch.ones(1, piece.length, keys, dtype=torch.bool).tril(piece.num_kept)
            self._masks[index] = additive_mask(visible, like)
        return self._masks[index]


def can_compile(like: Tensor) -> bool:
    """Whether the kernel takes heads of such numbers, [..., D], here."""
    fits = like.device.type == "cpu" and like.dtype in _KINDS and like.shape[-1] % _HEAD_DIM_UNIT == 0
    return fits and load_kernel("prefill_attention") is not None


def attend_compiled(
    q_NHD: Tensor,
    k_NKD: Tensor,
    v_NKD: Tensor,
    cache: LayerCache,
    pieces: PrefillChunks,
    scale: float,
    prefix: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """All pieces at once; the cache changes as they say. `prefix`: keys and values of the shared prefix, [K, P, D].
    Returns [N, H, D] and the log-sum-exp of the scores, float32 [N, H]; rows of no piece hold zeros, minus infinity.
    Raises MemoryError."""
    table, masks = pieces.table
    pattern = cache.shape.pattern
    closing = (cache.global_starts_H, pattern.global_size) if pattern else None
    return _call(q_NHD, k_NKD, v_NKD, (cache.k, cache.v), table, scale, prefix=prefix, masks=masks, closing=closing)


def attend_prefix(q_NHD: Tensor, prefix: tuple[Tensor, Tensor], scale: float) -> tuple[Tensor, Tensor]:
    """Every row over all keys of the shared prefix, [K, P, D] each. Returns as `attend_compiled`."""
    if not can_compile(q_NHD):
        out, lse = attention_with_lse(q_NHD.transpose(0, 1), *prefix, scale, None)
        return out.transpose(0, 1), lse.transpose(0, 1)
    shared_k, shared_v = prefix
    table = torch.tensor([[0, 0, len(q_NHD), shared_k.shape[1], -1, 0, 0, 0, -1, 0]])
    none = q_NHD.new_empty(0, len(shared_k), q_NHD.shape[2])
    return _call(q_NHD, none, none, (shared_k[None], shared_v[None]), table, scale, prefix=prefix)


def attend_chunks(
    q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, cache: LayerCache, pieces: PrefillChunks, scale: float
) -> tuple[Tensor, Tensor]:
    """As `attend_compiled`, by torch, piece after piece, and without the shared prefix."""
    out_NHD = torch.zeros_like(q_NHD, memory_format=torch.contiguous_format)
    lse_NH = torch.full(q_NHD.shape[:2], -torch.inf, device=q_NHD.device)
    for index, piece in enumerate(pieces.pieces):
        if piece.close_at is not None:
            cache.close_window(piece.slot, piece.close_at)
        rows, end = slice(piece.row, piece.row + piece.length), piece.num_kept + piece.length
        q, k, v = (x[rows].transpose(0, 1) for x in (q_NHD, k_NKD, v_NKD))
        if piece.visible is None:
            cache.k[piece.slot, :, piece.num_kept : end] = k
            cache.v[piece.slot, :, piece.num_kept : end] = v
            keys, values = cache.k[piece.slot, :, :end], cache.v[piece.slot, :, :end]
        else:
            keys = torch.cat([cache.k[piece.slot, :, : piece.num_kept], k], dim=1)
            values = torch.cat([cache.v[piece.slot, :, : piece.num_kept], v], dim=1)
        out, lse = attention_with_lse(q, keys, values, scale, pieces.mask(index, keys))
        out_NHD[rows], lse_NH[rows] = out.transpose(0, 1), lse.transpose(0, 1)
    return out_NHD, lse_NH


def attend_windows(
    q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, strips: tuple[Tensor, Tensor], pattern: SparsePattern, scale: float
) -> Tensor:
    """A whole sequence by the kernel, each window over the strips before it and itself; `strips` [H, T // W * G, D],
    keys and values. Returns [T, H, D]."""
    table = _window_table(len(q_THD), pattern)
    shared_by_windows = (strips[0].expand(len(table), -1, -1, -1), strips[1].expand(len(table), -1, -1, -1))
    return _call(q_THD, k_THD, v_THD, shared_by_windows, table, scale)[0]


@functools.lru_cache(maxsize=64)
def _window_table(length: int, pattern: SparsePattern) -> Tensor:
    window, rows = pattern.window_size, []
    for index, start in enumerate(range(0, length, window)):
        size = min(window, length - start)
        rows.append([index, start, size, 0, -1, index * pattern.global_size, size, 0, -1, 0])
    return torch.tensor(rows)


_POINTERS = "q new_k new_v prefix_k prefix_v cache_k cache_v out lse pieces starts masks"
_NUMBERS = (
    "q_row q_head k_row k_head v_row v_head slot_stride head_stride prefix_head "
    "num_pieces num_kv_heads group dim global_size"
)


class _Arguments(ctypes.Structure):
    """`arguments` of the kernel, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS.split()),
        *((name, ctypes.c_int64) for name in _NUMBERS.split()),
        ("scale", ctypes.c_float),
    )


def _call(  # noqa: PLR0913 - what the kernel's structure has
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: tuple[Tensor, Tensor],
    table: Tensor,
    scale: float,
    *,
    prefix: tuple[Tensor, Tensor] | None = None,
    masks: Tensor | None = None,
    closing: tuple[Tensor, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """`cache` [S, K, C, D] each; `closing`: where every head's global tokens begin in a window, and their number."""
    kernel = load_kernel("prefill_attention")
    assert kernel is not None
    q, k, v = (x if x.stride(2) == 1 else x.contiguous() for x in (q, k, v))
    num_kv_heads, dim = k.shape[1:]
    cache_k, cache_v = cache
    prefix_k, prefix_v = prefix or (None, None)
    starts, global_size = closing or (None, 0)
    out = q.new_zeros(q.shape)
    lse = torch.full(q.shape[:2], -torch.inf)
    # What the kernel takes on trust.
    assert table.is_contiguous()
    assert k.shape == v.shape
    assert q.shape[1] % num_kv_heads == 0
    for x in (cache_k, cache_v, *(prefix or ())):
        assert x.shape[-3] == num_kv_heads
        assert x.stride()[-2:] == (dim, 1) or 0 in x.shape
        assert x.dtype == q.dtype
    assert cache_k.stride() == cache_v.stride()
    assert prefix_k is None or prefix_v is None or prefix_k.stride() == prefix_v.stride()
    num_prefix = 0 if prefix_k is None else prefix_k.shape[1]
    assert {row[_PREFIX_COUNT] for row in table.tolist()} <= {0, num_prefix}
    pointers = (q, k, v, prefix_k, prefix_v, cache_k, cache_v, out, lse, table, starts, masks)
    arguments = _Arguments(
        *(None if x is None else x.data_ptr() for x in pointers),
        *(*q.stride()[:2], *k.stride()[:2], *v.stride()[:2], *cache_k.stride()[:2]),
        *(0 if prefix_k is None else prefix_k.stride(0), len(table), num_kv_heads, q.shape[1] // num_kv_heads, dim),
        *(global_size, scale),
    )
    run = getattr(kernel, f"prefill_attention_{_KINDS[q.dtype]}")
    if run(ctypes.byref(arguments), ctypes.c_int(torch.get_num_threads())):
        raise MemoryError("no memory for the keys of a prefill step")
    return out, lse
