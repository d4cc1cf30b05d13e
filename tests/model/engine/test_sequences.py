"""How prompts are cut and steps are filled: by the prompt alone, a whole step at a time, slots in their own rows."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tirazh.model.engine.label_scoring import LabelTrie, build_trie
from tirazh.model.engine.sequences import (
    ActiveSequence,
    Slots,
    StepBuilder,
    best_filling,
    build_decode_step,
    build_prefill_step,
)
from tirazh.model.requests import GenerateRequest, SamplingParams, ScoreRequest
from tirazh.model.step import FreshSlot, Segment, Step, chunk_length

WINDOW, ROWS = 16, 40
TRIE = build_trie([(101, 102, 103), (101, 104)])  # two nodes: 101, and 102 behind it


def generating(length: int, *, cached: int = 0, new_tokens: tuple[int, ...] = ()) -> ActiveSequence:
    prompt = tuple(range(length))
    request = GenerateRequest(prompt_token_ids=prompt, sampling=SamplingParams(), seed=0)
    return ActiveSequence(0, request, prompt, 64, num_cached=cached, new_tokens=list(new_tokens))


def scoring(length: int, *, cached: int = 0) -> ActiveSequence:
    prompt = tuple(range(length))
    return ActiveSequence(0, ScoreRequest(prompt_token_ids=prompt), prompt, 0, num_cached=cached)


def plan(slots: Slots, trie: LabelTrie | None = None, *, rows: int = ROWS) -> StepBuilder:
    return build_prefill_step(slots, rows, trie, window=WINDOW, most=rows)


def prefill_all(slots: Slots, trie: LabelTrie | None = None, rows: int = ROWS) -> list[Step]:
    """Steps until every prompt is in."""
    steps = []
    while any(sequence and sequence.num_to_prefill for sequence in slots):
        steps.append(plan(slots, trie, rows=rows).build(()))
        assert len(steps) < 1000
    return steps


def pieces(steps: list[Step], slot: int) -> list[tuple[int, int]]:
    segments = (s for step in steps for s in step.segments)
    return [(s.start, s.length) for s in segments if s.slot == slot and s.tree_parents is None]


def test_a_prompt_is_cut_where_its_own_windows_end() -> None:
    assert pieces(prefill_all([generating(40)]), 0) == [(0, 16), (16, 16), (32, 8)]


def test_behind_a_shared_prefix_the_first_piece_ends_at_the_same_window() -> None:
    assert pieces(prefill_all([generating(40, cached=21)]), 0) == [(21, 11), (32, 8)]


@given(st.integers(0, 500), st.integers(1, 50), st.integers(1, 50))
def test_a_piece_never_crosses_a_windows_end_nor_outgrows_a_step(start: int, window: int, most: int) -> None:
    length = chunk_length(start, window=window, most=most)
    assert 1 <= length <= most
    assert start // window == (start + length - 1) // window
    # And is as long as that allows, wherever the cuts began.
    assert length == most or (start + length) % window == 0 or (start % window + length) % most == 0


def test_a_window_longer_than_a_step_is_cut_inside_too() -> None:
    starts, start = [], 0
    while start < 80:
        starts.append(start)
        start += chunk_length(start, window=40, most=16)
    assert starts == [0, 16, 32, 40, 56, 72]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.booleans())
def test_how_a_prompt_is_cut_depends_on_no_neighbour(lengths: list[int], is_scoring: bool) -> None:
    new = scoring if is_scoring else generating
    together = prefill_all([new(length) for length in lengths], TRIE)
    for slot, length in enumerate(lengths):
        assert pieces(together, slot) == pieces(prefill_all([new(length)], TRIE), 0)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_a_step_has_its_fixed_number_of_rows_and_every_token_once(lengths: list[int]) -> None:
    seen: list[tuple[int, int]] = []
    for step in prefill_all([None, *(generating(length) for length in lengths)]):
        assert len(step.token_ids) == len(step.positions) == ROWS
        rows = [row for s in step.segments for row in range(s.row, s.row + s.length)]
        assert len(set(rows)) == len(rows) <= ROWS
        for s in step.segments:
            span = slice(s.row, s.row + s.length)
            assert step.token_ids[span].tolist() == list(range(s.start, s.start + s.length))
            assert step.positions[span].tolist() == list(range(s.start, s.start + s.length))
            seen += [(s.slot, position) for position in range(s.start, s.start + s.length)]
    assert sorted(seen) == [(slot + 1, p) for slot, length in enumerate(lengths) for p in range(length)]


def test_prompts_share_a_step_and_fill_it_as_well_as_whole_pieces_can() -> None:
    slots = [generating(20), generating(10), generating(30)]
    filled = plan(slots, rows=36)
    places = [(s.slot, s.row, s.start, s.length) for s in filled.build(()).segments]
    assert places == [(0, 0, 0, 16), (0, 16, 16, 4), (2, 20, 0, 16)]  # 36 rows; with the second prompt 30 would be
    assert [sequence.num_cached for sequence in slots] == [20, 0, 16]


def test_whoever_waits_longest_is_always_served() -> None:
    slots = [generating(16), generating(16), generating(7)]
    for sequence, admitted in zip(slots, (3, 2, 1), strict=True):
        sequence.admitted = admitted
    filled = plan(slots, rows=32)
    assert [s.slot for s in filled.build(()).segments] == [2, 1]  # without the short one the step would be full


@given(st.lists(st.lists(st.integers(1, 12), max_size=3), min_size=1, max_size=6), st.integers(12, 40))
def test_the_best_filling_is_the_best_there_is(pieces: list[list[int]], capacity: int) -> None:
    sizes = [[rows for rows in itertools.accumulate(lengths) if rows <= capacity] for lengths in pieces]
    if not sizes[0]:
        sizes[0] = [1]
    chosen = best_filling(sizes, capacity)
    assert chosen[0] >= 1
    filled = sum(options[count - 1] for options, count in zip(sizes, chosen, strict=True) if count)
    ways = itertools.product(*([0, *options] for options in sizes))
    assert filled == max(sum(way) for way in ways if way[0] and sum(way) <= capacity)


def test_among_equal_fillings_those_who_came_first_go_first() -> None:
    assert best_filling([[4], [4], [4], [8]], 8) == [1, 1, 0, 0]
    assert best_filling([], 8) == []


def test_logits_are_read_at_a_prompts_last_token_only() -> None:
    slots = [generating(20), generating(10), generating(17)]
    filled = plan(slots, rows=30)
    assert filled.readers == [(0, slice(0, 1)), (1, slice(1, 2))]
    assert filled.build(()).logit_rows.tolist() == [19, 29]


def test_the_labels_trie_hangs_on_the_last_piece_and_is_read_whole() -> None:
    filled = plan([scoring(20)], TRIE)
    step = filled.build(())
    assert step.segments[-1] == Segment(0, 20, 20, 2, (-1, 0))
    assert step.token_ids[20:22].tolist() == [101, 102]
    assert step.positions[19:22].tolist() == [19, 20, 21]
    assert filled.readers == [(0, slice(0, 3))]
    assert step.logit_rows.tolist() == [19, 20, 21]


def test_a_last_piece_waits_for_a_step_that_has_room_for_its_labels_too() -> None:
    slots = [scoring(31)]
    first, second = prefill_all(slots, TRIE, rows=32)
    assert [(s.start, s.length) for s in first.segments] == [(0, 16)]
    assert [(s.start, s.length) for s in second.segments] == [(16, 15), (31, 2)]


def test_labels_of_one_token_hang_nothing_on() -> None:
    filled = plan([scoring(5)], build_trie([(1,), (2,)]))
    assert len(filled.build(()).segments) == 1
    assert filled.build(()).logit_rows.tolist() == [4]


def test_a_completion_needs_no_labels() -> None:
    assert len(plan([generating(5)], TRIE).build(()).segments) == 1


def test_with_a_row_for_every_slot_a_decode_step_keeps_slots_in_their_rows() -> None:
    decoding = generating(5, cached=5, new_tokens=(7, 8))
    slots = [None, generating(30, cached=16), decoding, decoding]
    filled = build_decode_step(slots, 5)
    assert filled is not None
    step = filled.build((FreshSlot(1, uses_prefix=False),))
    assert step.segments == (Segment(2, 2, 6, 1), Segment(3, 3, 6, 1))
    assert step.token_ids.tolist() == [0, 0, 8, 8, 0]
    assert step.positions.tolist() == [0, 0, 6, 6, 0]
    assert step.logit_rows.tolist() == [2, 3]
    assert filled.readers == [(2, slice(0, 1)), (3, slice(1, 2))]
    assert step.fresh_slots == (FreshSlot(1, uses_prefix=False),)


def test_with_more_sequences_than_rows_those_with_most_to_come_decode() -> None:
    slots = [None, *(generating(5, cached=5, new_tokens=tuple(range(made))) for made in (3, 1, 2, 1)), generating(30)]
    filled = build_decode_step(slots, 3)
    assert filled is not None
    assert [(segment.slot, segment.row) for segment in filled.build(()).segments] == [(2, 0), (3, 1), (4, 2)]


def test_nothing_to_decode_is_no_step() -> None:
    assert build_decode_step([None, generating(30)], 4) is None


def test_a_step_crosses_processes_as_plain_numbers() -> None:
    step = plan([scoring(20)], TRIE).build(())
    assert step.token_ids.dtype == step.positions.dtype == step.logit_rows.dtype == np.int64
