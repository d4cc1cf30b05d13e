"""Rows spread over the whole input, and samples of bounded size, chosen without chance."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.pipeline.crossing.load import load_crossing
from tirazh.pipeline.input import spread
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.spread import read_sample, row_numbers, spread_cells, spread_rows, take_evenly
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.filesystem import Storage


def parts_of(*files: tuple[StoredFile, list[int]], row_bytes: int = 0) -> list[Part]:
    """Parts of files with the given cuts."""
    ranges = [(file, *ends) for file, cuts in files for ends in pairwise(cuts)]
    return [
        Part(index, len(ranges), file, start, stop, row_bytes=row_bytes)
        for index, (file, start, stop) in enumerate(ranges)
    ]


def file_named(name: str) -> StoredFile:
    return StoredFile(key=name, uri=f"/{name}", size=1, version="1")


@given(st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=5), min_size=1, max_size=5), st.integers(1, 40))
def test_rows_are_different_in_order_and_at_equal_distances(sizes: list[list[int]], count: int) -> None:
    files = [(file_named(str(n)), [sum(rows[:i]) for i in range(len(rows) + 1)]) for n, rows in enumerate(sizes)]
    parts = parts_of(*files)
    total = sum(map(sum, sizes))
    chosen = spread_rows(parts, count)
    numbers = row_numbers(parts, chosen)
    assert len(chosen) == min(count, total)
    assert all(part.rows == 1 for part in chosen)
    gaps = [after - before for before, after in pairwise(numbers)]
    assert all(gap >= 1 for gap in gaps)
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert 0 <= numbers[0] <= total // len(chosen)
    assert total - 1 - total // len(chosen) <= numbers[-1] < total


@given(st.integers(1, 500), st.integers(1, 200))
def test_rows_that_are_taken_are_different_and_spread(total: int, most: int) -> None:
    taken = take_evenly(pa.table({"n": range(total)}), most)["n"].to_pylist()
    assert taken == sorted(set(taken))
    assert len(taken) <= most
    assert len(taken) >= min(total, most) * 0.6
    assert max(after - before for before, after in pairwise([0, *taken, total])) <= 2.7 * max(1, total / most) + 1


def test_rows_that_repeat_some_values_in_turn_are_taken_alike() -> None:
    taken = take_evenly(pa.table({"n": [number % 10 for number in range(640)]}), 64)["n"].to_pylist()
    assert set(taken) == set(range(10))


def test_of_a_crossing_rows_of_different_values_are_chosen(tmp_path: Path) -> None:
    lists: dict[str, Any] = {"topic": [f"topic {n}" for n in range(20)], "style": list("abcde")}
    crossing = load_crossing(lists, rows=None, per_cell=20, seed=0, limit=None, storage=Storage())
    parts = [replace(part, crossing=crossing) for part in parts_of((file_named("vary:x"), [0, 700, 2_000]))]
    chosen = spread_cells(parts, crossing, 8)
    rows = [crossing.rows(number, number + 1).to_pylist()[0] for number in row_numbers(parts, chosen)]
    assert len({row["topic"] for row in rows}) == 8
    assert {row["style"] for row in rows} == set("abcde")
    assert chosen == spread_cells(parts, crossing, 8)


@pytest.fixture
def table(tmp_path: Path) -> tuple[StoredFile, pa.Table]:
    data = pa.table({"n": range(20_000), "text": [f"text {n}" for n in range(20_000)]})
    pq.write_table(data, tmp_path / "a.parquet", row_group_size=5_000)
    (file,) = Storage().walk(str(tmp_path / "a.parquet"))
    return file, data


def test_a_sample_covers_all_of_the_input(table: tuple[StoredFile, pa.Table]) -> None:
    file, data = table
    sample = read_sample(parts_of((file, [0, 7_000, 20_000])), Storage(), data.schema, ["n"])
    numbers = [number for place in sample for number in place.table["n"].to_pylist()]
    assert len(sample) == spread.PLACES
    assert len(numbers) == spread.PLACES * spread.ROWS_OF_A_PLACE
    assert numbers == sorted(set(numbers))
    assert max(after - before for before, after in pairwise([0, *numbers, 20_000])) < 2 * 20_000 / spread.PLACES


def test_a_small_input_is_sampled_whole(table: tuple[StoredFile, pa.Table]) -> None:
    file, data = table
    parts = parts_of((file, [0, *range(10, 1_001, 10)]))  # a limit of 1,000 rows
    sample = read_sample(parts, Storage(), data.schema, ["n"])
    assert [number for place in sample for number in place.table["n"].to_pylist()] == list(range(1_000))


def test_of_wide_rows_few_are_read_from_the_beginning_of_row_groups(table: tuple[StoredFile, pa.Table]) -> None:
    file, data = table
    sample = read_sample(parts_of((file, [0, 20_000]), row_bytes=1 << 20), Storage(), data.schema, ["n"])
    assert {place.part.start % 5_000 for place in sample} == {0}
    assert sum(place.part.rows for place in sample) <= 16 * spread.PLACES
