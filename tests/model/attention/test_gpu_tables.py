"""The tables that the GPU's kernels read. They are built on the CPU, so they are tested without a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.model.tiny import SMALL_PATTERN
from tirazh.model.attention.backends.gpu_tables import PrefillTables, TileSizes, decode_table, prefill_tables
from tirazh.model.attention.kv_cache import KVCache
from tirazh.model.attention.layer_shape import LayerShape
from tirazh.model.attention.segment_context import SegmentContext
from tirazh.model.attention.tree_masks import ancestor_mask
from tirazh.model.kernels.tables import DecodeRow, RunRow, TileRow
from tirazh.model.step import FreshSlot, Segment

WINDOW, GLOBAL = SMALL_PATTERN.window_size, SMALL_PATTERN.global_size
SPARSE, DENSE = LayerShape(2, 16, SMALL_PATTERN, (0, 4)), LayerShape(2, 16)
TREE = (-1, 0, 0)


def small_cache() -> KVCache:
    cache = KVCache([SPARSE, DENSE], num_slots=2, max_length=200, dtype=torch.float32, device=torch.device("cpu"))
    cache.start([FreshSlot(0, uses_prefix=False), FreshSlot(1, uses_prefix=False)])
    return cache


@dataclass
class Rows:
    """The rows of prefill tables by name."""

    chunk_tiles: list[TileRow]
    tree_tiles: list[TileRow]
    runs: list[RunRow]
    masks: list[int]


def tables(cache: KVCache, segments: list[Segment]) -> list[Rows]:
    """Those of the sparse layer and of the dense one."""
    contexts = []
    for segment in segments:
        contexts.append(SegmentContext.before(segment, cache))
        if segment.tree_parents is None:
            cache.advance(segment.slot, segment.length)
    made = [prefill_tables(contexts, layer, TileSizes(chunk=16, tree=16)) for layer in cache.layers]
    return [
        Rows(
            [TileRow(*row) for row in each.chunk_tiles.tolist()],
            [TileRow(*row) for row in each.tree_tiles.tolist()],
            [RunRow(*row) for row in each.runs.tolist()],
            each.masks.tolist(),
        )
        for each in made
    ]


def test_a_prompt_of_three_windows_in_one_step() -> None:
    cache = small_cache()
    segments = [Segment(1, 5 + start, start, WINDOW) for start in (0, WINDOW, 2 * WINDOW)]
    sparse, dense = tables(cache, segments)
    for number, tile in enumerate(sparse.chunk_tiles):
        start = number * WINDOW
        assert tile == TileRow(
            slot=1,
            first_row=5 + start,
            num_rows=WINDOW,
            num_retained=0,
            num_cached=0,
            num_closed=number,
            first_t=start,
            end_t=start + WINDOW,
            new_row=5,
            has_prefix=0,
        )
    assert [tile.num_closed for tile in dense.chunk_tiles] == [0, 0, 0]
    run = RunRow(slot=1, num_retained=0, num_cached=0, end_t=3 * WINDOW, new_row=5)
    assert sparse.runs == dense.runs == [run]


def test_the_next_step_finds_retained_tokens_and_a_full_window_in_the_cache() -> None:
    cache = small_cache()
    cache.advance(0, 2 * WINDOW)
    sparse, dense = tables(cache, [Segment(0, 3, 2 * WINDOW, 7)])
    # The second window is full, and this chunk closes it. In the cache it follows the tokens retained of the first.
    (tile,) = sparse.chunk_tiles
    assert (tile.num_retained, tile.num_cached, tile.num_closed) == (GLOBAL, WINDOW, 1)
    assert (tile.first_t, tile.end_t, tile.new_row) == (WINDOW, WINDOW + 7, 3)
    (tile,) = dense.chunk_tiles
    assert (tile.num_retained, tile.num_cached, tile.num_closed) == (0, 2 * WINDOW, 0)
    assert (tile.first_t, tile.end_t, tile.new_row) == (2 * WINDOW, 2 * WINDOW + 7, 3)


def test_trees_of_one_shape_share_a_mask_that_covers_their_own_keys_alone() -> None:
    cache = small_cache()
    segments = [Segment(0, 0, 0, 5), Segment(0, 5, 5, 3, TREE), Segment(1, 8, 0, 9), Segment(1, 17, 9, 3, TREE)]
    sparse, _ = tables(cache, segments)
    # The width is negative because all heads share the mask.
    assert [(tile.mask_at, tile.mask_width, tile.mask_from) for tile in sparse.tree_tiles] == [(1, -3, 5), (1, -3, 9)]
    assert sparse.masks == [0, *ancestor_mask(TREE)[0].T.flatten().int().tolist()]
    assert len(sparse.runs) == 2


def test_a_tree_that_leaves_its_window_has_a_mask_per_head_over_the_open_window_too() -> None:
    cache = small_cache()
    segments = [Segment(0, 0, 0, WINDOW), Segment(0, WINDOW, WINDOW, 3, TREE)]
    sparse, dense = tables(cache, segments)
    (tile,) = sparse.tree_tiles
    assert (tile.mask_at, tile.mask_width, tile.mask_from) == (1, 3, 0)
    assert len(sparse.masks) == 1 + 2 * 3 * (WINDOW + 3)
    (tile,) = dense.tree_tiles
    assert (tile.mask_at, tile.mask_width, tile.mask_from) == (1, -3, WINDOW)


@given(st.integers(0, 700), st.integers(0, 90), st.integers(1, 300), st.integers(1, 1 << 19))
def test_padded_tables_have_few_lengths_and_idle_rows_behind(chunks: int, trees: int, runs: int, masks: int) -> None:
    made = PrefillTables(*(torch.ones(size, 2, dtype=torch.int32) for size in (chunks, trees, runs)), torch.ones(masks))
    padded = made.padded()
    for before, after in zip(made, padded, strict=True):
        assert torch.equal(after[: len(before)], before)
        assert not after[len(before) :].any()
    for table, least in ((padded.chunk_tiles, 128), (padded.tree_tiles, 64), (padded.runs, 64)):
        assert len(table) in (0, *(least << power for power in range(5)))
    assert len(padded.masks) == (max(1 << 18, 1 << (masks - 1).bit_length()) if trees else masks)


def test_a_decode_step_closes_a_full_window_first() -> None:
    cache = small_cache()
    cache.advance(0, 2 * WINDOW)
    cache.advance(1, 3)
    contexts = [
        SegmentContext.before(Segment(1, 0, 3, 1), cache),
        SegmentContext.before(Segment(0, 2, 2 * WINDOW, 1), cache),
    ]
    assert [DecodeRow(*row) for row in decode_table(3, contexts).tolist()] == [
        DecodeRow(slot=1, dense_end=3, sparse_end=3),
        DecodeRow(slot=-1),
        DecodeRow(slot=0, dense_end=2 * WINDOW, sparse_end=2 * GLOBAL, close_at=GLOBAL),
    ]
