"""Attention over the KV cache on a GPU, in Triton: a decode step in one launch per layer, a prefill
step in two.

The keys of a row are read where they are: the retained tokens and the open window in the row's
slot, the step's own keys in the rows of the step. One running softmax covers all of them (Milakov
and Gimelshein 2018, arXiv 1805.02867, as in FlashAttention). It starts from the attention over the
shared prefix, which is computed before: its output and the log-sum-exp of its scores (a split-KV
merge). Imported only where Triton is installed; `attention/backends/gpu.py` launches.
Legend: M queries of a tile, N keys of a block, D head dim, W window, G global tokens of a window. t
counts a slot's tokens from the first one of the window that was open when the step began, j the
keys of a slot in the order of `kernels/tables.py`.
"""

# ruff: noqa: PLR0913 - a kernel has as many arguments as it reads, and cannot be split
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

import triton
import triton.language as tl

from tirazh.model.kernels.tables import DecodeRow, RunRow, TileRow, column

# Columns of the tables. A kernel can read a global only if it is a constexpr.
TILE_FIELDS = tl.constexpr(len(TileRow._fields))
TILE_SLOT = tl.constexpr(column(TileRow, "slot"))
TILE_FIRST_ROW = tl.constexpr(column(TileRow, "first_row"))
TILE_NUM_ROWS = tl.constexpr(column(TileRow, "num_rows"))
TILE_NUM_RETAINED = tl.constexpr(column(TileRow, "num_retained"))
TILE_NUM_CACHED = tl.constexpr(column(TileRow, "num_cached"))
TILE_NUM_CLOSED = tl.constexpr(column(TileRow, "num_closed"))
TILE_FIRST_T = tl.constexpr(column(TileRow, "first_t"))
TILE_END_T = tl.constexpr(column(TileRow, "end_t"))
TILE_NEW_ROW = tl.constexpr(column(TileRow, "new_row"))
TILE_HAS_PREFIX = tl.constexpr(column(TileRow, "has_prefix"))
TILE_MASK_AT = tl.constexpr(column(TileRow, "mask_at"))
TILE_MASK_WIDTH = tl.constexpr(column(TileRow, "mask_width"))
TILE_MASK_FROM = tl.constexpr(column(TileRow, "mask_from"))
RUN_FIELDS = tl.constexpr(len(RunRow._fields))
RUN_SLOT = tl.constexpr(column(RunRow, "slot"))
RUN_NUM_RETAINED = tl.constexpr(column(RunRow, "num_retained"))
RUN_NUM_CACHED = tl.constexpr(column(RunRow, "num_cached"))
RUN_END_T = tl.constexpr(column(RunRow, "end_t"))
RUN_NEW_ROW = tl.constexpr(column(RunRow, "new_row"))
DECODE_FIELDS = tl.constexpr(len(DecodeRow._fields))
DECODE_SLOT = tl.constexpr(column(DecodeRow, "slot"))
DECODE_CLOSE_AT = tl.constexpr(column(DecodeRow, "close_at"))
DECODE_HAS_PREFIX = tl.constexpr(column(DecodeRow, "has_prefix"))

LOG2_E = tl.constexpr(1.4426950408889634)  # softmax is computed in powers of two


@triton.jit
def _fold(q_MD, k_ND, v_ND, seen_MN, scale, highest_M, total_M, sum_MD):
    """Take a block of keys into a running softmax. `scale` includes LOG2_E."""
    scores_MN = tl.dot(q_MD, tl.trans(k_ND), input_precision="ieee") * scale
    scores_MN = tl.where(seen_MN, scores_MN, float("-inf"))
    new_M = tl.maximum(highest_M, tl.max(scores_MN, 1))
    base_M = tl.where(new_M == float("-inf"), 0.0, new_M)
    weight_MN = tl.exp2(scores_MN - base_M[:, None])
    fade_M = tl.exp2(highest_M - base_M)
    total_M = total_M * fade_M + tl.sum(weight_MN, 1)
    sum_MD = sum_MD * fade_M[:, None]
    sum_MD = tl.dot(weight_MN.to(v_ND.dtype), v_ND, sum_MD, input_precision="ieee")
    return new_M, total_M, sum_MD


@triton.jit
def _find_keys(j_N, num_retained, num_closed, start, W, G, HAS_STARTS: tl.constexpr):
    """For keys j of a slot: their t, their index in the cache if they are there, and whether they
    belong to the open window."""
    if HAS_STARTS:
        since_N = j_N - num_retained
        is_open_N = since_N >= num_closed * G
        open_t_N = (num_closed * W - num_closed * G) + since_N
        t_N = tl.where(is_open_N, open_t_N, since_N // G * W + start + since_N % G)
        cached_N = tl.where(since_N < 0, j_N, num_retained + t_N)
    else:
        t_N, cached_N, is_open_N = j_N, j_N, j_N >= 0
    return t_N, cached_N, is_open_N


@triton.jit
def _apply_mask(mask, mask_width, head, j_N, from_j, end_j, m, is_row_M):
    """Which keys before `end_j` the queries see: all before `from_j`, and of the others those that
    the mask allows."""
    width = tl.abs(mask_width)
    mask_MN = mask + tl.where(mask_width < 0, 0, head) * (end_j - from_j) * width
    mask_MN += (j_N - from_j)[None, :] * width + m[:, None]
    is_key_N = j_N < end_j
    is_covered_MN = (is_key_N & (j_N >= from_j))[None, :] & is_row_M[:, None]
    return is_key_N[None, :] & (tl.load(mask_MN, mask=is_covered_MN, other=1) != 0)


@triton.jit
def prefill(
    q, new_k, new_v, cache_k, cache_v, prefix_out, prefix_lse, starts, masks, tiles, out,
    q_row, q_head, k_row, k_head, v_row, v_head, slot_stride, head_stride, prefix_row, prefix_head, lse_head, scale,
    num_heads, W, G,
    GROUP: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    HAS_STARTS: tl.constexpr, HAS_MASKS: tl.constexpr, HAS_PREFIX: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one head (a `TileRow`) over the keys that they see behind the prefix.

    `prefix_out` and `prefix_lse` are the attention over the prefix.
    """
    tile = tiles + tl.program_id(0) * TILE_FIELDS
    head = tl.program_id(1)
    kv_head = (head // GROUP).to(tl.int64)
    slot = tl.load(tile + TILE_SLOT).to(tl.int64)
    first_row, num_rows = tl.load(tile + TILE_FIRST_ROW), tl.load(tile + TILE_NUM_ROWS)
    num_retained, num_cached = tl.load(tile + TILE_NUM_RETAINED), tl.load(tile + TILE_NUM_CACHED)
    num_closed = tl.load(tile + TILE_NUM_CLOSED)
    first_t, end_t, new_row = tl.load(tile + TILE_FIRST_T), tl.load(tile + TILE_END_T), tl.load(tile + TILE_NEW_ROW)
    mask_at, mask_width = tl.load(tile + TILE_MASK_AT), tl.load(tile + TILE_MASK_WIDTH)
    from_j = tl.load(tile + TILE_MASK_FROM)
    end_j = num_retained + num_closed * G + end_t - num_closed * W

    m, n, d = tl.arange(0, M), tl.arange(0, N), tl.arange(0, D)
    rows_M = (first_row + m).to(tl.int64)
    is_row_M = m < num_rows
    q_MD = tl.load(q + rows_M[:, None] * q_row + head * q_head + d[None, :], mask=is_row_M[:, None], other=0.0)
    scale *= LOG2_E
    highest_M = tl.full([M], float("-inf"), tl.float32)
    total_M, sum_MD = tl.zeros([M], tl.float32), tl.zeros([M, D], tl.float32)
    if HAS_PREFIX:
        has_prefix_M = m < num_rows * tl.load(tile + TILE_HAS_PREFIX)
        lse_M = tl.load(prefix_lse + head * lse_head + rows_M, mask=has_prefix_M, other=float("-inf"))
        highest_M = lse_M * LOG2_E
        total_M = tl.where(has_prefix_M, 1.0, 0.0)
        at_MD = prefix_out + rows_M[:, None] * prefix_row + head * prefix_head + d[None, :]
        sum_MD = tl.load(at_MD, mask=has_prefix_M[:, None], other=0.0).to(tl.float32)

    # Blocks of keys are counted from the slot's first key, wherever the keys are stored: a row's
    # bits must not depend on how much of its prompt runs in the same step.
    slot_at = slot * slot_stride + kv_head * head_stride
    start = tl.load(starts + kv_head).to(tl.int32) if HAS_STARTS else 0
    for begin in range(0, end_j, N):
        j_N = begin + n
        is_key_N = j_N < end_j
        t_N, cached_N, is_open_N = _find_keys(j_N, num_retained, num_closed, start, W, G, HAS_STARTS)
        is_cached_N = (j_N < num_retained) | (t_N < num_cached)
        row_N = (new_row + t_N - num_cached).to(tl.int64)
        k_N = tl.where(is_cached_N, cache_k + (slot_at + cached_N * D), new_k + (kv_head * k_head + row_N * k_row))
        v_N = tl.where(is_cached_N, cache_v + (slot_at + cached_N * D), new_v + (kv_head * v_head + row_N * v_row))
        k_ND = tl.load(k_N[:, None] + d[None, :], mask=is_key_N[:, None], other=0.0)
        v_ND = tl.load(v_N[:, None] + d[None, :], mask=is_key_N[:, None], other=0.0)
        if HAS_MASKS:
            seen_MN = _apply_mask(masks + mask_at, mask_width, head, j_N, from_j, end_j, m, is_row_M)
        else:
            seen_MN = is_key_N[None, :] & ((is_open_N == 0)[None, :] | (t_N[None, :] <= first_t + m[:, None]))
        highest_M, total_M, sum_MD = _fold(q_MD, k_ND, v_ND, seen_MN, scale, highest_M, total_M, sum_MD)

    out_MD = out + (rows_M[:, None] * num_heads + head) * D + d[None, :]
    tl.store(out_MD, (sum_MD / total_M[:, None]).to(out.dtype.element_ty), mask=is_row_M[:, None])


@triton.jit
def keep(
    new_k, new_v, cache_k, cache_v, starts, runs,
    k_row, k_head, v_row, v_head, slot_stride, head_stride, W, G,
    D: tl.constexpr, N: tl.constexpr, G_UP: tl.constexpr, HAS_STARTS: tl.constexpr,
):  # fmt: skip
    """After a prefill step, put one head's new keys and values of one run (a `RunRow`) into the
    cache.

    Of the windows that the run closes only the head's global tokens are kept, behind those retained
    so far; the tokens of the window left open follow.
    """
    run = runs + tl.program_id(0) * RUN_FIELDS
    head = tl.program_id(1).to(tl.int64)
    slot = tl.load(run + RUN_SLOT).to(tl.int64)
    num_retained, num_cached = tl.load(run + RUN_NUM_RETAINED), tl.load(run + RUN_NUM_CACHED)
    end_t, new_row = tl.load(run + RUN_END_T), tl.load(run + RUN_NEW_ROW)
    slot_at = slot * slot_stride + head * head_stride
    d = tl.arange(0, D)
    num_closed = 0
    if HAS_STARTS:
        num_closed = (end_t - 1) // W
        start = tl.load(starts + head)
        g = tl.arange(0, G_UP)
        for window in range(0, num_closed):
            # Only the first window can be in the cache, and its tokens are about to be overwritten:
            # load all, then store.
            t_G = window * W + start + g
            is_cached_G = (g < G) & (t_G < num_cached)
            is_new_G = (g < G) & (t_G >= num_cached)
            from_GD = slot_at + (num_retained + t_G)[:, None] * D + d[None, :]
            row_G = (new_row + t_G - num_cached).to(tl.int64)
            own_k = new_k + row_G[:, None] * k_row + head * k_head + d[None, :]
            own_v = new_v + row_G[:, None] * v_row + head * v_head + d[None, :]
            k_GD = tl.load(cache_k + from_GD, mask=is_cached_G[:, None], other=0.0)
            v_GD = tl.load(cache_v + from_GD, mask=is_cached_G[:, None], other=0.0)
            k_GD += tl.load(own_k, mask=is_new_G[:, None], other=0.0)
            v_GD += tl.load(own_v, mask=is_new_G[:, None], other=0.0)
            tl.debug_barrier()
            to_GD = slot_at + (num_retained + window * G + g)[:, None] * D + d[None, :]
            tl.store(cache_k + to_GD, k_GD, mask=(g < G)[:, None])
            tl.store(cache_v + to_GD, v_GD, mask=(g < G)[:, None])
            tl.debug_barrier()
    n = tl.arange(0, N)
    first_t = tl.maximum(num_closed * W, num_cached)
    for begin in range(first_t, end_t, N):
        t_N = begin + n
        row_N = (new_row + t_N - num_cached).to(tl.int64)
        is_new_N = t_N < end_t
        k_ND = tl.load(new_k + row_N[:, None] * k_row + head * k_head + d[None, :], mask=is_new_N[:, None], other=0.0)
        v_ND = tl.load(new_v + row_N[:, None] * v_row + head * v_head + d[None, :], mask=is_new_N[:, None], other=0.0)
        to_ND = slot_at + (num_retained + num_closed * G + t_N - num_closed * W)[:, None] * D + d[None, :]
        tl.store(cache_k + to_ND, k_ND, mask=is_new_N[:, None])
        tl.store(cache_v + to_ND, v_ND, mask=is_new_N[:, None])


@triton.jit
def _close_window(cache_k, cache_v, slot_at, close_at, start, G, D: tl.constexpr, G_UP: tl.constexpr):
    """Move one head's global tokens of the window that begins at `close_at` to `close_at`, behind
    the retained ones."""
    d, g = tl.arange(0, D), tl.arange(0, G_UP)
    from_GD = slot_at + (close_at + start + g)[:, None] * D + d[None, :]
    k_GD = tl.load(cache_k + from_GD, mask=(g < G)[:, None])
    v_GD = tl.load(cache_v + from_GD, mask=(g < G)[:, None])
    tl.debug_barrier()
    to_GD = slot_at + (close_at + g)[:, None] * D + d[None, :]
    tl.store(cache_k + to_GD, k_GD, mask=(g < G)[:, None])
    tl.store(cache_v + to_GD, v_GD, mask=(g < G)[:, None])
    tl.debug_barrier()


@triton.jit
def decode(
    q, new_k, new_v, cache_k, cache_v, prefix_out, prefix_lse, starts, table, out,
    q_row, q_head, k_row, k_head, v_row, v_head, slot_stride, head_stride, prefix_row, prefix_head, lse_head,
    scale, num_heads, G,
    END: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, N: tl.constexpr,
    STAGES: tl.constexpr, G_UP: tl.constexpr, HAS_STARTS: tl.constexpr, HAS_PREFIX: tl.constexpr,
):  # fmt: skip
    """One row's new token of one head (a `DecodeRow`) over its slot's keys, which the new key joins,
    and the prefix (`prefix_out`, `prefix_lse`). `END`: the new key's column in this kind of layer."""
    head, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    kv_head = (head // GROUP).to(tl.int64)
    fields = table + row * DECODE_FIELDS
    slot = tl.load(fields + DECODE_SLOT).to(tl.int64)
    end = tl.load(fields + END)
    d, n = tl.arange(0, D), tl.arange(0, N)
    out_D = out + (row * num_heads + head) * D + d
    if slot < 0:
        tl.store(out_D, tl.zeros([D], out.dtype.element_ty))
    else:
        close_at = tl.load(fields + DECODE_CLOSE_AT) if HAS_STARTS else -1
        start = tl.load(starts + kv_head).to(tl.int32) if HAS_STARTS else 0
        slot_at = slot * slot_stride + kv_head * head_stride
        q_D = tl.load(q + row * q_row + head * q_head + d).to(tl.float32)
        new_k_D = tl.load(new_k + row * k_row + kv_head * k_head + d)
        new_v_D = tl.load(new_v + row * v_row + kv_head * v_head + d)
        scale *= LOG2_E
        # The new key comes first, so that the running maximum is never minus infinity.
        highest = tl.sum(q_D * new_k_D.to(tl.float32), 0) * scale
        total, sum_D = 1.0, new_v_D.to(tl.float32)
        if HAS_PREFIX:
            if tl.load(fields + DECODE_HAS_PREFIX) > 0:
                prefix_highest = tl.load(prefix_lse + head * lse_head + row) * LOG2_E
                prefix_D = tl.load(prefix_out + row * prefix_row + head * prefix_head + d).to(tl.float32)
                new_highest = tl.maximum(highest, prefix_highest)
                fade, weight = tl.exp2(highest - new_highest), tl.exp2(prefix_highest - new_highest)
                total = fade + weight
                sum_D = sum_D * fade + prefix_D * weight
                highest = new_highest
        for begin in tl.range(0, end, N, num_stages=STAGES):
            j_N = begin + n
            is_key_N = j_N < end
            moved_N = (close_at >= 0) & (j_N >= close_at)
            at_ND = slot_at + tl.where(moved_N, j_N + start, j_N)[:, None] * D + d[None, :]
            k_ND = tl.load(cache_k + at_ND, mask=is_key_N[:, None], other=0.0).to(tl.float32)
            v_ND = tl.load(cache_v + at_ND, mask=is_key_N[:, None], other=0.0).to(tl.float32)
            scores_N = tl.where(is_key_N, tl.sum(k_ND * q_D[None, :], 1) * scale, float("-inf"))
            new_highest = tl.maximum(highest, tl.max(scores_N, 0))
            weight_N = tl.exp2(scores_N - new_highest)
            fade = tl.exp2(highest - new_highest)
            total = total * fade + tl.sum(weight_N, 0)
            sum_D = sum_D * fade + tl.sum(v_ND * weight_N[:, None], 0)
            highest = new_highest
        tl.store(out_D, (sum_D / total).to(out.dtype.element_ty))
        if head % GROUP == 0:
            if close_at >= 0:
                _close_window(cache_k, cache_v, slot_at, close_at, start, G, D, G_UP)
            tl.store(cache_k + slot_at + end * D + d, new_k_D)
            tl.store(cache_v + slot_at + end * D + d, new_v_D)
