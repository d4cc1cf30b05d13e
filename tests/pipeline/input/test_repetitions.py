"""A row's random numbers depend on its content and its repetition in the whole input, not on the files it is in."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tirazh.pipeline.input.footers import read_footers
from tirazh.pipeline.input.listing.files import list_inputs
from tirazh.pipeline.input.parts import Part, cut_evenly
from tirazh.pipeline.input.read import read_part, read_rows
from tirazh.pipeline.input.repetitions import content_of, count_repetitions, number_equal
from tirazh.pipeline.schema import REPETITION
from tirazh.pipeline.storage.filesystem import Storage

Row = tuple[Any, ...]
Write = Callable[..., Path]
STORAGE = Storage()
prompts = st.lists(st.sampled_from(["a", "b", "aa", "", None]), min_size=1, max_size=30)


def parts_of(inputs: Sequence[Path | str], part_rows: int = 3) -> list[Part]:
    listed = list_inputs(STORAGE, [str(named) for named in inputs])
    parts: list[Part] = []
    for footer in read_footers(STORAGE, listed, text_columns=["prompt"]):
        cuts = cut_evenly(footer.rows, part_rows)
        parts += [Part(len(parts) + i, 0, footer.file, cuts[i], cuts[i + 1]) for i in range(len(cuts) - 1)]
    return parts


def rows_of(inputs: Sequence[Path | str], part_rows: int = 3) -> list[Row]:
    """(prompt, id, repetition) of every row, in the order of the input."""
    parts = parts_of(inputs, part_rows)
    counted = count_repetitions(parts, ["prompt"], partial(read_rows, storage=STORAGE, only=["prompt"]))
    tables = [read_part(part, STORAGE, repetitions=counted.get(part.index)) for part in parts]
    return [(row["prompt"], row.get("id"), row[REPETITION]) for table in tables for row in table.to_pylist()]


def write_rows(path: Path, rows: Sequence[Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"prompt": pa.array(rows, pa.string())}), path, **options)
    return path


@given(st.lists(st.integers(-2, 5), max_size=40))
def test_equal_values_are_numbered_in_their_order(values: list[int]) -> None:
    expected = [values[:index].count(value) for index, value in enumerate(values)]
    found = number_equal(np.array(values, np.int64))
    assert ([0] * len(values) if found is None else found.tolist()) == expected


@given(st.lists(st.one_of(st.none(), st.text()), max_size=4), st.lists(st.one_of(st.none(), st.text()), max_size=4))
def test_different_values_have_different_contents(left: list[Any], right: list[Any]) -> None:
    assert (content_of(left) == content_of(right)) == (left == right)


@settings(max_examples=25, deadline=None)
@given(rows=prompts, part_rows=st.integers(1, 30), group_rows=st.integers(1, 30), cuts=st.sets(st.integers(1, 29)))
def test_contents_and_repetitions_do_not_depend_on_files_row_groups_and_parts(
    rows: list[Any], part_rows: int, group_rows: int, cuts: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("in")
    whole = write_rows(root / "whole/a.parquet", rows)
    ends = [0, *sorted(cut for cut in cuts if cut < len(rows)), len(rows)]
    for number, (start, stop) in enumerate(pairwise(ends)):
        options = {"row_group_size": group_rows, "use_dictionary": number % 2 == 0, "compression": "zstd"}
        write_rows(root / f"split/{number:02}.parquet", rows[start:stop], **options)
    expected = rows_of([whole], len(rows))
    assert [row[2] for row in expected] == [rows[:index].count(row) for index, row in enumerate(rows)]
    assert rows_of([root / "split"], part_rows) == expected


@settings(max_examples=15, deadline=None)
@given(files=st.lists(prompts, min_size=2, max_size=4), data=st.data())
def test_another_order_of_the_inputs_gives_the_same_set_of_contents_and_repetitions(
    files: list[list[Any]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("in")
    paths = [write_rows(root / f"{number}.parquet", rows) for number, rows in enumerate(files)]
    shuffled = data.draw(st.permutations(paths))
    assert Counter(rows_of(shuffled)) == Counter(rows_of(paths))
    # A file that is added at the end changes no row before it; one at the beginning only rows of its contents.
    assert rows_of(paths)[: len(files[0])] == rows_of(paths[:1])


def test_files_of_one_name_draw_different_numbers_however_they_are_named(write_input: Write, tmp_path: Path) -> None:
    same = ["Однажды утром редактор", "Сегодня в городе"]
    for day in ("mon", "tue"):
        write_input(f"{day}/part-0.parquet", prompt=same, id=[f"{day}{row}" for row in range(2)])
    root = tmp_path / "in"
    expected = [(same[0], "mon0", 0), (same[1], "mon1", 0), (same[0], "tue0", 1), (same[1], "tue1", 1)]
    shutil.copytree(root, tmp_path / "elsewhere/deeper")
    for inputs in (
        [root],
        [f"{root}/*/part-0.parquet"],
        [root / "mon", root / "tue"],
        [root / "mon/part-0.parquet", root / "tue/part-0.parquet"],
        [f"{root}/**/*.parquet"],
        [tmp_path / "elsewhere"],
        [tmp_path / "elsewhere/deeper/mon", root / "tue"],
    ):
        assert rows_of(inputs) == expected
    assert rows_of([root / "mon"]) == expected[:2]


def test_a_renamed_file_keeps_its_rows(write_input: Write) -> None:
    path = write_input("a.parquet", prompt=["x", "y", "x"])
    before = rows_of([path.parent])
    os.rename(path, path.parent / "other.parquet")
    assert rows_of([path.parent]) == before


def test_values_of_any_type_are_counted_as_texts(write_input: Write) -> None:
    path = write_input("a.parquet", prompt=["x"] * 6, mark=[-1, -2, -1, None, -2, None])
    read = partial(read_rows, storage=STORAGE, only=["prompt", "mark"])
    (counted,) = count_repetitions(parts_of([path], 6), ["prompt", "mark"], read).values()
    assert counted.tolist() == [0, 0, 1, 0, 1, 1]


def test_an_input_without_repetitions_needs_no_numbers(write_input: Write) -> None:
    path = write_input("a.parquet", prompt=[f"{row}" for row in range(50)])
    read = partial(read_rows, storage=STORAGE, only=["prompt"])
    assert count_repetitions(parts_of([path]), ["prompt"], read) == {}
