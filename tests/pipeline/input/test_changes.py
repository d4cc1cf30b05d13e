"""Files that were rewritten, removed or added since a job was planned, and rows that are no longer the same."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.errors import InputError
from tirazh.pipeline.input.changes import at_current_versions, compare_inputs, find_difference, list_remaining
from tirazh.pipeline.input.listing.files import list_inputs
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.read import read_part
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.filesystem import Storage

Write = Callable[..., Path]
STORAGE = Storage()


def listed(folder: Path) -> list[StoredFile]:
    return list_inputs(STORAGE, [str(folder)])


def keys(files: tuple[StoredFile, ...]) -> list[str]:
    return [file.key for file in files]


def part_of(path: Path, start: int, stop: int) -> Part:
    (file,) = list_inputs(STORAGE, [str(path)])
    return Part(0, 1, file, start, stop)


def test_a_listing_shows_which_files_were_rewritten_removed_and_added(write_input: Write) -> None:
    folder = write_input("same.parquet", text=["x"]).parent
    for name in ("touched", "changed", "removed"):
        write_input(f"{name}.parquet", text=["x"])
    before = listed(folder)
    os.utime(folder / "touched.parquet", (1, 1))
    write_input("changed.parquet", text=["x"] * 100, more=range(100))
    (folder / "removed.parquet").unlink()
    write_input("added.parquet", text=["x"])
    changes = compare_inputs(before, listed(folder))
    assert keys(changes.touched) == ["touched.parquet"]
    assert keys(changes.changed) == ["changed.parquet"]
    assert keys(changes.removed) == ["removed.parquet"]
    assert keys(changes.added) == ["added.parquet"]
    assert changes.touched[0] in listed(folder), "a rewritten file is given as it is now"


def test_an_unchanged_input_has_no_changes(write_input: Write) -> None:
    folder = write_input("a.parquet", text=["x"]).parent
    assert not compare_inputs(listed(folder), listed(folder))


def test_an_input_that_was_removed_as_a_whole_leaves_the_others(write_input: Write) -> None:
    kept, gone = write_input("kept/a.parquet", text=["x"]), write_input("gone/b.parquet", text=["x"])
    inputs = [str(kept), str(gone), str(gone.parent / "*.parquet")]
    gone.unlink()
    assert [file.key for file in list_remaining(STORAGE, inputs)] == ["a.parquet"]
    with pytest.raises(InputError):
        list_inputs(STORAGE, inputs)


def test_a_touched_file_is_read_at_its_current_version_and_keeps_its_seeds(write_input: Write) -> None:
    path = write_input("a.parquet", text=["x", "y", "z"])
    part = part_of(path, 1, 3)
    before = read_part(part, STORAGE)
    os.utime(path, (1, 1))
    with pytest.raises(InputError, match="has changed since the job was planned"):
        read_part(part, STORAGE)
    (current,) = at_current_versions([part], listed(path.parent))
    assert read_part(current, STORAGE).equals(before)
    assert at_current_versions([part], []) == [part]


ROWS: dict[str, Any] = {
    "text": ["a", None, "c", "d"],
    "number": [0.5, math.nan, None, -1.0],
    "list": [[1.0, math.nan], None, [], [2.0]],
    "day": pa.array([1, 2, None, 4], pa.timestamp("ns")),
    "kind": pa.array(["x", "y", "x", "y"]).dictionary_encode(),
}


def test_the_same_rows_in_another_file_are_not_a_difference(write_input: Write) -> None:
    path = write_input("a.parquet", **ROWS)
    finished = pq.read_table(path)
    pq.write_table(finished, path, compression="zstd", row_group_size=1, use_dictionary=False)
    assert find_difference(part_of(path, 0, 4), finished.schema, STORAGE, finished) is None
    assert find_difference(part_of(path, 2, 3), finished.schema, STORAGE, finished.slice(2, 1)) is None


@pytest.mark.parametrize(
    ("changes", "clause"),
    [
        ({"text": ["a", None, "c", "D"]}, "row 3 differs in column 'text'"),
        ({"text": ["a", "", "c", "d"]}, "row 1 differs in column 'text'"),
        ({"number": [0.5, 1.0, None, -1.0]}, "row 1 differs in column 'number'"),
        ({"list": [[1.0, math.nan], None, [], [2.5]]}, "row 3 differs in column 'list'"),
        ({"text": [b"\xff", b"", b"c", b"d"]}, "has column 'text' as binary, and not as string"),
        ({"day": None}, "row 0 differs in column 'day'"),
    ],
)
def test_a_row_that_differs_is_named(write_input: Write, changes: dict[str, Any], clause: str) -> None:
    path = write_input("a.parquet", **ROWS)
    finished = pq.read_table(path)
    write_input("a.parquet", **{name: value for name, value in (ROWS | changes).items() if value is not None})
    found = find_difference(part_of(path, 0, 4), finished.schema, STORAGE, finished)
    assert found is not None
    assert clause in found


def test_a_file_that_became_shorter_is_named(write_input: Write) -> None:
    path = write_input("a.parquet", text=["x"] * 4)
    finished, part = pq.read_table(path), part_of(path, 0, 4)
    write_input("a.parquet", text=["x"] * 3)
    found = find_difference(part, finished.schema, STORAGE, finished)
    assert found == "has become shorter since the job was planned"


@given(st.data())
def test_every_change_of_a_value_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.none() | st.text(max_size=3), min_size=1, max_size=8))
    row = data.draw(st.integers(0, len(texts) - 1))
    other = data.draw((st.none() | st.text(max_size=3)).filter(lambda text: text != texts[row]))
    path = tmp_path_factory.mktemp("in") / "a.parquet"
    finished = pa.table({"text": pa.array(texts, pa.string())})
    pq.write_table(pa.table({"text": pa.array([*texts[:row], other, *texts[row + 1 :]], pa.string())}), path)
    found = find_difference(part_of(path, 0, len(texts)), finished.schema, STORAGE, finished)
    assert found == f"row {row} differs in column 'text'"
