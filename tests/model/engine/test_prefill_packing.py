"""Chunked prefill: how a prompt is cut depends on the prompt alone, and chunks fill a step as well
as they can."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tests.model.engine.sequence_examples import generating, scoring
from tirazh.model.engine.labels.trie import SplitTrie, split_trie
from tirazh.model.engine.prefill_packing import best_filling, build_prefill_step
from tirazh.model.engine.sequences import Slots, StepBuilder
from tirazh.model.step import Segment, Step, chunk_length

WINDOW, ROWS = 16, 40
TRIE = split_trie([(101, 102, 103), (101, 104)], max_nodes=9)  # two nodes: 101, and its child 102


def fill_step(slots: Slots, trie: SplitTrie | None = None, *, rows: int = ROWS) -> StepBuilder:
    return build_prefill_step(slots, rows, trie, window=WINDOW, max_chunk=rows)


def prefill_all(slots: Slots, trie: SplitTrie | None = None, rows: int = ROWS) -> list[Step]:
    """Build steps until every prompt is computed."""
    steps = []
    while any(sequence and sequence.num_to_prefill for sequence in slots):
        builder = fill_step(slots, trie, rows=rows)
        for segment in builder.segments:
            sequence = slots[segment.slot]
            assert sequence is not None
            sequence.num_cached += segment.length if segment.tree_parents is None else 0
        steps.append(builder.build(()))
        assert len(steps) < 1000
    return steps


def chunks(steps: list[Step], slot: int) -> list[tuple[int, int]]:
    """Start and length of the slot's chunks."""
    segments = (s for step in steps for s in step.segments)
    return [(s.start, s.length) for s in segments if s.slot == slot and s.tree_parents is None]


def test_a_prompt_is_cut_where_its_own_windows_end() -> None:
    assert chunks(prefill_all([generating(40)]), 0) == [(0, 16), (16, 16), (32, 8)]


def test_behind_a_shared_prefix_the_first_chunk_ends_at_the_same_window() -> None:
    assert chunks(prefill_all([generating(40, cached=21)]), 0) == [(21, 11), (32, 8)]


@given(st.integers(0, 500), st.integers(1, 50), st.integers(1, 50))
def test_a_chunk_never_crosses_the_end_of_a_window_nor_exceeds_the_limit(
    start: int, window: int, max_length: int
) -> None:
    length = chunk_length(start, window=window, max_length=max_length)
    assert 1 <= length <= max_length
    assert start // window == (start + length - 1) // window
    # And it is as long as that allows, wherever the first chunk began.
    assert length == max_length or (start + length) % window == 0 or (start % window + length) % max_length == 0


def test_a_window_longer_than_a_step_is_cut_into_chunks_too() -> None:
    starts, start = [], 0
    while start < 80:
        starts.append(start)
        start += chunk_length(start, window=40, max_length=16)
    assert starts == [0, 16, 32, 40, 56, 72]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.booleans())
def test_how_a_prompt_is_cut_does_not_depend_on_its_neighbours(lengths: list[int], is_scoring: bool) -> None:
    new = scoring if is_scoring else generating
    together = prefill_all([new(length) for length in lengths], TRIE)
    for slot, length in enumerate(lengths):
        assert chunks(together, slot) == chunks(prefill_all([new(length)], TRIE), 0)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_steps_have_a_fixed_number_of_rows_and_hold_every_prompt_token_once(lengths: list[int]) -> None:
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


def test_prompts_share_a_step_and_fill_it_as_well_as_whole_chunks_can() -> None:
    builder = fill_step([generating(20), generating(10), generating(30)], rows=36)
    segments = [(s.slot, s.row, s.start, s.length) for s in builder.segments]
    assert segments == [(0, 0, 0, 16), (0, 16, 16, 4), (2, 20, 0, 16)]  # 36 rows; with the second prompt 30 would be


def test_filling_a_step_does_not_change_the_sequences() -> None:
    slots = [generating(20), scoring(10)]
    fill_step(slots, TRIE)
    assert [sequence.num_cached for sequence in slots] == [0, 0]


def test_the_prompt_that_waits_longest_always_gets_a_chunk() -> None:
    slots = [generating(16), generating(16), generating(7)]
    for sequence, admission_number in zip(slots, (3, 2, 1), strict=True):
        sequence.admission_number = admission_number
    # Without the short prompt the step would be full.
    assert [s.slot for s in fill_step(slots, rows=32).segments] == [2, 1]


@given(st.lists(st.lists(st.integers(1, 12), max_size=3), min_size=1, max_size=6), st.integers(12, 40))
def test_no_other_choice_of_chunks_fills_a_step_better(chunk_rows: list[list[int]], capacity: int) -> None:
    sizes = [[rows for rows in itertools.accumulate(lengths) if rows <= capacity] for lengths in chunk_rows]
    if not sizes[0]:
        sizes[0] = [1]
    chosen = best_filling(sizes, capacity)
    assert chosen[0] >= 1
    filled = sum(options[count - 1] for options, count in zip(sizes, chosen, strict=True) if count)
    choices = itertools.product(*([0, *options] for options in sizes))
    assert filled == max(sum(choice) for choice in choices if choice[0] and sum(choice) <= capacity)


def test_among_equal_fillings_the_prompts_admitted_first_win() -> None:
    assert best_filling([[4], [4], [4], [8]], 8) == [1, 1, 0, 0]
    assert best_filling([], 8) == []


def test_logits_are_requested_at_a_prompt_s_last_token_only() -> None:
    builder = fill_step([generating(20), generating(10), generating(17)], rows=30)
    assert builder.logit_requests == [(0, slice(0, 1)), (1, slice(1, 2))]
    assert builder.build(()).logit_rows.tolist() == [19, 29]


def test_the_label_trie_follows_the_last_chunk_and_all_its_logits_are_requested() -> None:
    builder = fill_step([scoring(20)], TRIE)
    step = builder.build(())
    assert step.segments[-1] == Segment(0, 20, 20, 2, (-1, 0))
    assert step.token_ids[20:22].tolist() == [101, 102]
    assert step.positions[19:22].tolist() == [19, 20, 21]
    assert builder.logit_requests == [(0, slice(0, 3))]
    assert step.logit_rows.tolist() == [19, 20, 21]


def test_a_last_chunk_waits_for_a_step_with_enough_rows_for_the_label_trie_too() -> None:
    first, second = prefill_all([scoring(31)], TRIE, rows=32)
    assert [(s.start, s.length) for s in first.segments] == [(0, 16)]
    assert [(s.start, s.length) for s in second.segments] == [(16, 15), (31, 2)]


def test_labels_of_one_token_take_no_rows() -> None:
    builder = fill_step([scoring(5)], split_trie([(1,), (2,)], max_nodes=9))
    assert len(builder.segments) == 1
    assert builder.build(()).logit_rows.tolist() == [4]


def test_a_completion_takes_no_rows_for_labels() -> None:
    assert len(fill_step([generating(5)], TRIE).segments) == 1


def test_the_later_pieces_of_a_trie_follow_the_prompt_in_steps_of_their_own() -> None:
    labels = [(first, second, 7) for first in (101, 102, 103) for second in range(5)]  # 3 times 6 nodes
    trie = split_trie(labels, max_nodes=6)
    sequence = scoring(20)
    sequence.trie = trie
    assert sequence.num_to_prefill == 20 + 12
    builder = fill_step([sequence], trie, rows=32)
    assert [(s.start, s.length, s.tree_parents is not None) for s in builder.segments] == [
        (0, 16, False),
        (16, 4, False),
        (20, 6, True),
        (20, 6, True),
    ]
    assert [rows.stop - rows.start for _, rows in builder.logit_requests] == [7, 6]
    sequence.num_cached, sequence.num_pieces = 20, 2
    builder = fill_step([sequence], trie, rows=32)
    assert [(s.start, s.length) for s in builder.segments] == [(20, 6)]
    sequence.num_pieces = 3
    assert not sequence.num_to_prefill
