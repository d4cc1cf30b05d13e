"""The tables that a GPU's kernels read say where keys are; made on the CPU, so tested without a GPU."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.model.tiny import SMALL_PATTERN
from tirazh.model.attention.cache_positions import CachePosition
from tirazh.model.attention.gpu import PrefillTables, decode_table, prefill_tables
from tirazh.model.attention.kv_cache import KVCache, LayerShape
from tirazh.model.step import FreshSlot, Segment

WINDOW, KEPT = SMALL_PATTERN.window_size, SMALL_PATTERN.global_size
SPARSE, DENSE = LayerShape(2, 16, SMALL_PATTERN, (0, 4)), LayerShape(2, 16)


def small_cache() -> KVCache:
    cache = KVCache([SPARSE, DENSE], num_slots=2, max_length=200, dtype=torch.float32, device=torch.device("cpu"))
    cache.start([FreshSlot(0, uses_prefix=False), FreshSlot(1, uses_prefix=False)])
    return cache


def tables(cache: KVCache, segments: list[Segment], masks: list[torch.Tensor | None]) -> list[PrefillTables]:
    """Of the sparse layer and of the dense one."""
    places = []
    for segment in segments:
        places.append(CachePosition(segment, cache))
        if segment.tree_parents is None:
            cache.advance(segment.slot, segment.length)
    return [prefill_tables(places, masks, layer) for layer in cache.layers]


def test_a_prompt_of_three_windows_in_one_step() -> None:
    cache = small_cache()
    segments = [Segment(1, 5 + start, start, WINDOW) for start in (0, WINDOW, 2 * WINDOW)]
    sparse, dense = tables(cache, segments, [None] * 3)
    # Slot, row, rows; strip, cached, closed windows, first t, end, row of the first t; prefix, mask.
    for number, tile in enumerate(sparse.pieces.tolist()):
        start = number * WINDOW
        assert tile == [1, 5 + start, WINDOW, 0, 0, number, start, start + WINDOW, 5, 0, -1, 0, 0]
    assert [tile[5] for tile in dense.pieces.tolist()] == [0, 0, 0]
    assert sparse.runs.tolist() == dense.runs.tolist() == [[1, 0, 0, 3 * WINDOW, 5]]


def test_the_next_step_finds_a_strip_and_a_full_window_in_the_cache() -> None:
    cache = small_cache()
    cache.advance(0, 2 * WINDOW)
    sparse, dense = tables(cache, [Segment(0, 3, 2 * WINDOW, 7)], [None])
    # The second window is full but is closed only by this piece; it lies behind the strip of the first.
    assert sparse.pieces.tolist() == [[0, 3, 7, KEPT, WINDOW, 1, WINDOW, WINDOW + 7, 3, 0, -1, 0, 0]]
    assert dense.pieces.tolist() == [[0, 3, 7, 0, 2 * WINDOW, 0, 2 * WINDOW, 2 * WINDOW + 7, 3, 0, -1, 0, 0]]


def test_trees_share_a_mask_that_covers_their_own_keys_alone() -> None:
    cache, mask = small_cache(), torch.eye(3, dtype=torch.bool)[None]
    segments = [
        Segment(0, 0, 0, 5),
        Segment(0, 5, 5, 3, (-1, 0, 0)),
        Segment(1, 8, 0, 9),
        Segment(1, 17, 9, 3, (-1, 0, 0)),
    ]
    sparse, _ = tables(cache, segments, [None, mask, None, mask])
    # Where the mask begins, its width (negative: all heads share it), the first key that it covers.
    assert [tile[-3:] for tile in sparse.trees.tolist()] == [[1, -3, 5], [1, -3, 9]]
    assert sparse.masks.tolist() == [0, *torch.eye(3, dtype=torch.uint8).flatten().tolist()]
    assert len(sparse.runs) == 2


@given(st.integers(0, 700), st.integers(0, 90), st.integers(1, 300), st.integers(1, 1 << 19))
def test_padded_tables_have_few_lengths_and_idle_rows_behind(pieces: int, trees: int, runs: int, masks: int) -> None:
    made = PrefillTables(*(torch.ones(size, 2, dtype=torch.int32) for size in (pieces, trees, runs)), torch.ones(masks))
    padded = made.padded()
    for before, after in zip(made.parts, padded.parts, strict=True):
        assert torch.equal(after[: len(before)], before)
        assert not after[len(before) :].any()
    for part, least in ((padded.pieces, 128), (padded.trees, 64), (padded.runs, 64)):
        assert len(part) in (0, *(least << power for power in range(5)))
    assert len(padded.masks) == (max(1 << 18, 1 << (masks - 1).bit_length()) if trees else masks)


def test_a_decode_step_closes_a_full_window_first() -> None:
    cache = small_cache()
    cache.advance(0, 2 * WINDOW)
    cache.advance(1, 3)
    places = [CachePosition(Segment(1, 0, 3, 1), cache), CachePosition(Segment(0, 2, 2 * WINDOW, 1), cache)]
    assert decode_table(3, places).tolist() == [
        [1, 3, 3, -1, 0],
        [-1, 0, 0, -1, 0],
        [0, 2 * WINDOW, 2 * KEPT, KEPT, 0],
    ]
