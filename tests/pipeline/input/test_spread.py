"""Rows spread over the whole input, and samples of bounded size, chosen without chance."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.pipeline.input import spread
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.spread import read_sample, row_numbers, spread_rows
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
