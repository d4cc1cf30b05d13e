"""The integer tables that the attention kernels read: one NamedTuple per table, one field per
column.

These are the only definitions of the columns. Python builds rows from them, the Triton kernels take
their column numbers from `column`, and a test compares `ChunkRow` with the enum in
`prefill_attention.c`. No torch, no Triton.

Tokens of a slot are counted by `t`, from the first token of the window that was open when the step
began. The keys of a slot stand in this order: retained tokens of windows closed before the step,
global tokens of windows closed in the step, tokens of the open window.
"""

from __future__ import annotations

from typing import NamedTuple


class ChunkRow(NamedTuple):
    """One chunk of a prefill step on a CPU (int64): the table of `prefill_attention.c`."""

    slot: int
    row: int  # the chunk's first row in the step
    length: int  # rows of the chunk
    prefix_count: int = 0  # keys of the shared prefix that the chunk sees: all or 0
    close_at: int = -1  # index of the slot's key at which the window begins that is closed first; -1: none
    kept: int = 0  # keys in the slot that the chunk sees, and the index at which its own keys are put
    num_own: int = 0  # the chunk's own keys: `length`, or 0 if it only reads
    is_kept: int = 0  # 1: the chunk's own keys are put into the slot
    mask_at: int = -1  # where the chunk's mask begins in `masks`; -1: causal
    mask_head: int = 0  # elements from one head's mask to the next; 0: all heads share one


class TileRow(NamedTuple):
    """One tile of queries of a prefill step on a GPU (int32): the table of
    `attention_triton.prefill`.

    A row of zeros is idle.
    """

    slot: int
    first_row: int
    num_rows: int
    num_retained: int  # tokens retained from windows closed before the step
    num_cached: int  # tokens of the open window in the cache (dense: of the sequence) when the step began
    num_closed: int  # windows closed in the step before the tile's first query
    first_t: int  # t of the first query
    end_t: int  # t behind the last key
    new_row: int  # row of the step that holds the first t that is not in the cache
    has_prefix: int
    mask_at: int = -1  # where the tile's mask begins in `masks`; -1: causal
    mask_width: int = 0  # queries of the mask; negative if all heads share one mask
    mask_from: int = 0  # the first key that the mask covers; all keys before it are visible


class RunRow(NamedTuple):
    """The rows that one prefill step adds to one slot on a GPU (int32): the table of
    `attention_triton.keep`.

    A row of zeros is idle.
    """

    slot: int
    num_retained: int
    num_cached: int
    end_t: int  # t behind the last new token
    new_row: int  # row of the step that holds the first t that is not in the cache


class DecodeRow(NamedTuple):
    """One row of a decode step on a GPU (int32): the table of `attention_triton.decode`."""

    slot: int = -1  # -1: the row is idle
    dense_end: int = 0  # index of the new key in the slot, in a dense layer
    sparse_end: int = 0  # the same in a sparse layer
    close_at: int = -1  # index of the key at which the window begins that is closed first; -1: none
    has_prefix: int = 0


def column(table: type[ChunkRow | TileRow | RunRow | DecodeRow], name: str) -> int:
    """The number of the column `name` of a table."""
    return table._fields.index(name)
