"""Builds the tables that the Triton kernels read, on the CPU. The columns are defined in
`kernels/tables.py`.

A prefill step is cut into tiles of queries: of causal segments and of label trees, which also need
masks. What the step adds to a slot, in any number of segments, is one run: its new keys stand in
consecutive rows of the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from tirazh.model.attention.kv_cache import LayerCache
from tirazh.model.attention.layer_shape import LayerKind
from tirazh.model.attention.segment_context import SegmentContext
from tirazh.model.attention.tree_masks import Parents, ancestor_mask, leaves_window, tree_mask
from tirazh.model.kernels.tables import DecodeRow, RunRow, TileRow


@dataclass(frozen=True, slots=True)
class TileSizes:
    """Queries of one tile, of causal chunks and of label trees."""

    chunk: int
    tree: int


class PrefillTables(NamedTuple):
    """The tables of a prefill step in layers of one kind.

    `chunk_tiles` and `tree_tiles` int32 [tiles, fields of TileRow], `runs` int32 [runs, fields of
    RunRow]; `masks` uint8, all trees' masks concatenated. Rows of zeros are idle.
    """

    chunk_tiles: Tensor
    tree_tiles: Tensor
    runs: Tensor
    masks: Tensor

    def padded(self) -> Self:
        """Append idle rows up to one of few lengths, so that few CUDA graphs hold all steps; no
        trees stay none."""
        least = _LEAST_LENGTHS._asdict()
        padded = self._replace(**{name: _padded(table, least[name]) for name, table in self._asdict().items()})
        return padded if len(self.tree_tiles) else padded._replace(masks=self.masks)


class _Lengths(NamedTuple):
    chunk_tiles: int
    tree_tiles: int
    runs: int
    masks: int


_LEAST_LENGTHS = _Lengths(chunk_tiles=128, tree_tiles=64, runs=64, masks=1 << 18)  # of padded tables


def idle_decode_table(num_rows: int) -> Tensor:
    """The table of a decode step in which no row runs, int32 [num_rows, fields of DecodeRow]."""
    return torch.tensor(DecodeRow(), dtype=torch.int32).repeat(num_rows, 1)


def decode_table(num_rows: int, contexts: Sequence[SegmentContext]) -> Tensor:
    """The table of a decode step, int32 [num_rows, fields of DecodeRow]; the same for dense and
    sparse layers."""
    table = idle_decode_table(num_rows)
    if contexts:
        rows = [
            DecodeRow(
                slot=context.segment.slot,
                dense_end=context.num_cached(LayerKind.DENSE),
                sparse_end=context.num_cached(LayerKind.SPARSE),
                close_at=context.num_retained if context.closes_window else -1,
                has_prefix=int(context.has_prefix),
            )
            for context in contexts
        ]
        table[[context.segment.row for context in contexts]] = torch.tensor(rows, dtype=torch.int32)
    return table


def prefill_tables(contexts: Sequence[SegmentContext], cache: LayerCache, sizes: TileSizes) -> PrefillTables:
    """The tables of a prefill step in layers shaped like `cache`."""
    masks = _Masks()
    chunk_tiles: list[TileRow] = []
    tree_tiles: list[TileRow] = []
    runs: dict[int, _Run] = {}
    for context in contexts:
        slot = context.segment.slot
        if slot not in runs:
            runs[slot] = _Run.before(context, cache)
        run = runs[slot]
        first_t = run.add(context)
        if context.segment.tree_parents is None:
            chunk_tiles += _chunk_tiles(context, run, first_t, sizes.chunk)
        else:
            tree_tiles += _tree_tiles(context, run, first_t, sizes.tree, masks, cache)
    kept = [run.row() for run in runs.values() if run.end_t is not None]
    return PrefillTables(_table(chunk_tiles), _table(tree_tiles), _table(kept), masks.concatenated())


@dataclass(slots=True)
class _Run:
    """What a step adds to one slot: the rows from `first_row` to `next_row`.

    Fields as in `RunRow`; `end_t` is None as long as nothing is kept. A dense layer is one window
    that never closes: `window` is 0.
    """

    slot: int
    num_retained: int
    num_cached: int
    first_row: int
    next_row: int
    window: int
    end_t: int | None = None

    @classmethod
    def before(cls, context: SegmentContext, cache: LayerCache) -> Self:
        """The run of a slot that begins with this segment."""
        is_sparse = cache.shape.kind is LayerKind.SPARSE
        return cls(
            slot=context.segment.slot,
            num_retained=context.num_retained if is_sparse else 0,
            num_cached=context.num_open if is_sparse else context.num_dense,
            first_row=context.segment.row,
            next_row=context.segment.row,
            window=cache.shape.sparse_pattern.window_size if is_sparse else 0,
        )

    def add(self, context: SegmentContext) -> int:
        """Take the slot's next segment in; returns t of its first token."""
        segment = context.segment
        # The engine promises it: all that a step takes of one sequence stands in consecutive rows.
        assert segment.row == self.next_row
        self.next_row += segment.length
        first_t = self.num_cached + segment.row - self.first_row
        if segment.tree_parents is None:
            self.end_t = first_t + segment.length
        return first_t

    def num_closed(self, t: int) -> int:
        """Windows that the step closes before the window of `t`."""
        return t // self.window if self.window else 0

    def row(self) -> RunRow:
        assert self.end_t is not None
        return RunRow(self.slot, self.num_retained, self.num_cached, self.end_t, self.first_row)


def _chunk_tiles(context: SegmentContext, run: _Run, first_t: int, tile: int) -> Iterator[TileRow]:
    for at, num_rows in _cuts(context.segment.length, tile):
        end_t = first_t + at + num_rows  # causal: no query of the tile sees more
        yield _tile(context, run, at, num_rows, run.num_closed(first_t), first_t + at, end_t)


def _tree_tiles(
    context: SegmentContext, run: _Run, first_t: int, tile: int, masks: _Masks, cache: LayerCache
) -> Iterator[TileRow]:
    segment, parents = context.segment, context.segment.tree_parents
    assert parents is not None
    end_t = first_t + segment.length
    # A tree closes no window: it sees the window that the prompt ends in.
    num_closed = run.num_closed(max(0, first_t - 1))
    num_keys = run.num_retained + end_t
    if run.window:
        num_keys -= num_closed * (run.window - cache.shape.sparse_pattern.global_size)
    mask = masks.add_tree(context, parents, cache)
    for at, num_rows in _cuts(segment.length, tile):
        row = _tile(context, run, at, num_rows, num_closed, first_t + at, end_t)
        yield row._replace(mask_at=mask.start + at, mask_width=mask.width, mask_from=num_keys - mask.num_keys)


def _tile(
    context: SegmentContext, run: _Run, at: int, num_rows: int, num_closed: int, first_t: int, end_t: int
) -> TileRow:
    return TileRow(
        slot=run.slot,
        first_row=context.segment.row + at,
        num_rows=num_rows,
        num_retained=run.num_retained,
        num_cached=run.num_cached,
        num_closed=num_closed,
        first_t=first_t,
        end_t=end_t,
        new_row=run.first_row,
        has_prefix=int(context.has_prefix),
    )


def _cuts(length: int, tile: int) -> Iterator[tuple[int, int]]:
    """Where the tiles of a segment begin, and how many rows they have."""
    return ((at, min(tile, length - at)) for at in range(0, length, tile))


@dataclass(frozen=True, slots=True)
class _PlacedMask:
    """A mask in the concatenation: where it begins, its queries (negative if all heads share it),
    its keys."""

    start: int
    width: int
    num_keys: int


class _Masks:
    """The masks of a step's trees, concatenated.

    Keys are rows there, so that a tile's queries lie side by side.

    Most trees of a step are the same label trie and see all keys before it, so they share one mask
    of their own tokens.
    """

    def __init__(self) -> None:
        self._shared: dict[Parents, _PlacedMask] = {}
        self._parts: list[Tensor] = [torch.zeros(1, dtype=torch.uint8)]  # never empty: a kernel needs its address
        self._length = 1

    def add_tree(self, context: SegmentContext, parents: Parents, cache: LayerCache) -> _PlacedMask:
        """Where the mask of a tree is; it covers the last keys that the tree sees."""
        if leaves_window(context, parents, cache):
            return self._add(tree_mask(context, parents, cache))
        if parents not in self._shared:
            self._shared[parents] = self._add(ancestor_mask(parents))
        return self._shared[parents]

    def concatenated(self) -> Tensor:
        return torch.cat(self._parts)

    def _add(self, mask: Tensor) -> _PlacedMask:
        num_heads, width, num_keys = mask.shape
        placed = _PlacedMask(self._length, width if num_heads > 1 else -width, num_keys)
        self._parts.append(mask.transpose(1, 2).to(torch.uint8).flatten())
        self._length += mask.numel()
        return placed


def _table(rows: Sequence[TileRow] | Sequence[RunRow]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int32)


def _padded(table: Tensor, least: int) -> Tensor:
    if not table.numel():
        return table
    length = max(least, 1 << (len(table) - 1).bit_length())
    return torch.cat([table, table.new_zeros(length - len(table), *table.shape[1:])])
