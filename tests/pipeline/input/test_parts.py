"""Cutting the input: each row is in exactly one part, parts have equal work, no row group is decoded too often."""

from __future__ import annotations

from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.pipeline.input.footers import Footer, RowGroup
from tirazh.pipeline.input.parts import (
    MAX_PART_ROWS,
    MAX_PART_TEXT_BYTES,
    MAX_PART_TOKENS,
    MIN_PART_TOKENS,
    RowCost,
    choose_part_tokens,
    count_tokens,
    cut_by_tokens,
    cut_evenly,
    take_rows,
)
from tirazh.pipeline.storage.disk import StoredFile

GIB = 1 << 30
groups_of_a_file = st.lists(
    st.builds(
        lambda rows, width, more: RowGroup(rows, rows * width, rows * (width + more)),
        st.integers(1, 50_000),
        st.integers(1, 20_000),
        st.integers(0, 1_000),
    ),
    min_size=1,
    max_size=8,
)


def footer(*groups: RowGroup, name: str = "a.parquet") -> Footer:
    return Footer(StoredFile(f"/in/{name}", name, 1, "v"), pa.schema([]), groups)


@given(groups_of_a_file, st.integers(MIN_PART_TOKENS, MAX_PART_TOKENS), st.integers(0, 512))
def test_parts_cover_every_row_once(groups: list[RowGroup], part_tokens: int, new_tokens: int) -> None:
    cuts = cut_by_tokens(groups, part_tokens, RowCost(new_tokens))
    assert cuts[0] == 0
    assert cuts[-1] == sum(group.rows for group in groups)
    assert all(start < stop for start, stop in pairwise(cuts))


@given(groups_of_a_file, st.integers(MIN_PART_TOKENS, MAX_PART_TOKENS))
def test_a_part_consists_of_whole_row_groups_or_lies_inside_one(groups: list[RowGroup], part_tokens: int) -> None:
    ends = {0}
    for group in groups:
        ends.add(max(ends) + group.rows)
    for start, stop in pairwise(cut_by_tokens(groups, part_tokens, RowCost())):
        crosses = any(start < end < stop for end in ends)
        assert not crosses or (start in ends and stop in ends)


@given(st.lists(st.integers(1, 400_000), min_size=1, max_size=8), st.integers(MIN_PART_TOKENS, MAX_PART_TOKENS))
def test_the_number_of_rows_per_part_is_bounded_for_short_rows(rows: list[int], part_tokens: int) -> None:
    groups = [RowGroup(count, 4 * count, 4 * count) for count in rows]
    assert max(stop - start for start, stop in pairwise(cut_by_tokens(groups, part_tokens, RowCost()))) <= MAX_PART_ROWS


@given(st.lists(st.builds(RowGroup, st.integers(1, 5_000), st.integers(1, 10**7), st.just(10**7)), min_size=1))
def test_a_part_has_about_the_requested_number_of_tokens(groups: list[RowGroup]) -> None:
    cost, part_tokens = RowCost(16), 8_192
    for start, stop in pairwise(cut_by_tokens(groups, part_tokens, cost)):
        assert _tokens(groups, start, stop, cost) <= 1.5 * part_tokens + _widest_row(groups, cost)


def test_a_row_group_of_gigabytes_is_cut_into_few_parts() -> None:
    """Each part decodes its row group from the start, so the group is read parts / 2 times in
    total: no more often than the limit on memory requires.
    """
    giant = RowGroup(rows=4_000_000, text_bytes=5 * GIB, all_bytes=5 * GIB)
    assert len(cut_by_tokens([giant], MAX_PART_TOKENS, RowCost(64))) - 1 == 5 * GIB // MAX_PART_TEXT_BYTES
    wide = RowGroup(rows=4_000_000, text_bytes=GIB // 4, all_bytes=5 * GIB)
    assert len(cut_by_tokens([wide], MAX_PART_TOKENS, RowCost(64))) - 1 <= 16


def test_a_part_fits_in_memory_with_large_other_columns() -> None:
    images = RowGroup(rows=100_000, text_bytes=1 << 20, all_bytes=40 * GIB)
    assert len(cut_by_tokens([images], MAX_PART_TOKENS, RowCost())) - 1 == 80


def test_a_row_group_of_usual_size_is_cut_by_tokens() -> None:
    usual = RowGroup(rows=1_000_000, text_bytes=100 << 20, all_bytes=100 << 20)
    assert len(cut_by_tokens([usual], MAX_PART_TOKENS, RowCost(10))) - 1 > 60


@given(st.lists(groups_of_a_file, min_size=1, max_size=4), st.integers(1, 200_000))
def test_limit_takes_the_first_rows(files: list[list[RowGroup]], limit: int) -> None:
    footers = [footer(*groups, name=f"{index}.parquet") for index, groups in enumerate(files)]
    taken = take_rows(footers, limit)
    total = sum(f.rows for f in footers)
    assert sum(f.rows for f in taken) == min(limit, total)
    assert [f.file.key for f in taken] == [f.file.key for f in footers[: len(taken)]]


def test_files_without_rows_make_no_parts() -> None:
    assert take_rows([footer(), footer(RowGroup(0, 0, 0)), footer(RowGroup(1, 9, 9), name="b")], None) == [
        footer(RowGroup(1, 9, 9), name="b")
    ]


@pytest.mark.parametrize(
    ("total", "part"),
    [(0, MIN_PART_TOKENS), (640_000, 10_000), (10**12, MAX_PART_TOKENS)],
    ids=["tiny", "64 parts", "huge"],
)
def test_tokens_per_part_are_a_64th_between_the_minimum_and_the_maximum(total: int, part: int) -> None:
    assert choose_part_tokens(total) == part


def test_part_rows_cuts_at_that_number_of_rows() -> None:
    assert cut_evenly(10, 4) == [0, 4, 8, 10]
    assert cut_evenly(8, 4) == [0, 4, 8]


def test_estimated_tokens_are_a_quarter_of_the_bytes_plus_the_new_tokens() -> None:
    assert count_tokens([footer(RowGroup(10, 400, 999))], RowCost(5)) == 100 + 10 + 50


def _tokens(groups: list[RowGroup], start: int, stop: int, cost: RowCost) -> float:
    tokens, row = 0.0, 0
    for group in groups:
        inside = max(0, min(stop, row + group.rows) - max(start, row))
        tokens += cost.tokens(group) * inside / group.rows
        row += group.rows
    return tokens


def _widest_row(groups: list[RowGroup], cost: RowCost) -> float:
    return max(cost.tokens(group) / group.rows for group in groups)
