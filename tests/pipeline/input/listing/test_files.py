"""Listing input files and reading their footers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tirazh.errors import InputError
from tirazh.pipeline.input.footers import check_text_column, read_footers
from tirazh.pipeline.input.listing.files import find_inputs, list_inputs, would_read
from tirazh.pipeline.input.unify import unify
from tirazh.pipeline.storage.filesystem import Storage

Write = Callable[..., Path]


def keys(*inputs: Path | str) -> list[str]:
    return [file.key for file in list_inputs(Storage(), [str(named) for named in inputs])]


def test_a_directory_is_searched_recursively_and_hidden_names_are_skipped(write_input: Write) -> None:
    for name in ("b.parquet", "a.parquet", "day=1/c.PARQUET", "_old/d.parquet", ".e.parquet", "_f.parquet"):
        write_input(name, text=["x"])
    root = write_input("g.parquet", text=["x"]).parent
    (root / "readme.txt").write_text("not data")
    assert keys(root) == ["a.parquet", "b.parquet", "day=1/c.PARQUET", "g.parquet"]


def test_inputs_keep_their_order_and_a_file_named_twice_is_read_once(write_input: Write) -> None:
    b, a = write_input("b.parquet", text=["x"]), write_input("a.parquet", text=["x"])
    assert keys(b, a.parent) == ["b.parquet", "a.parquet"]


def test_a_glob_pattern_matches_one_or_all_levels_of_directories(write_input: Write) -> None:
    for name in ("n1/a.parquet", "n2/b.parquet", "n2/deep/c.parquet"):
        write_input(name, text=["x"])
    root = write_input("d.parquet", text=["x"]).parent
    assert keys(f"{root}/n*/*.parquet") == ["n1/a.parquet", "n2/b.parquet"]
    assert keys(f"{root}/**/*.parquet") == ["d.parquet", "n1/a.parquet", "n2/b.parquet", "n2/deep/c.parquet"]


def test_a_single_file_may_have_any_name(write_input: Write) -> None:
    assert keys(write_input("news.data", text=["x"])) == ["news.data"]


def test_the_key_of_a_file_does_not_depend_on_where_the_input_is_stored(write_input: Write, tmp_path: Path) -> None:
    root = write_input("day/a.parquet", text=["x"]).parent.parent
    before = keys(root)
    os.rename(root, tmp_path / "moved")
    assert keys(tmp_path / "moved") == before == ["day/a.parquet"]


def test_files_of_one_name_in_several_inputs_have_different_keys(write_input: Write) -> None:
    names = ("m1/data.parquet", "m2/data.parquet", "x/m1/data.parquet", "m1/other.parquet")
    m1, m2, deep, other = (write_input(name, text=["x"]) for name in names)
    assert keys(m1, m2) == ["m1/data.parquet", "m2/data.parquet"]
    assert keys(m1.parent, m2.parent) == ["m1/data.parquet", "other.parquet", "m2/data.parquet"]
    assert keys(m1, deep) == ["in/m1/data.parquet", "x/m1/data.parquet"]
    assert keys(m1, m2, deep.parent.parent) == ["in/m1/data.parquet", "m2/data.parquet", "x/m1/data.parquet"]
    assert keys(m1, other) == ["data.parquet", "other.parquet"], "names that differ stay as they are"


def test_a_listing_says_which_input_contains_which_files(write_input: Write) -> None:
    first, second = (str(write_input(name, text=["x"])) for name in ("m1/a.parquet", "m2/b.parquet"))
    both = str(Path(first).parent.parent)
    assert find_inputs(Storage(), [first, both, second]).by_input == ({first}, {first, second}, {second})


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ("new.parquet", "does not exist; did you mean .*/in/news.parquet?"),
        ("*.csv", r"no file matches the input pattern .*/in/\*\.csv"),
        ("texts", r"contains no .parquet file \(it contains 1 × .csv\)"),
        ("empty", r"contains no .parquet file \(it contains nothing\)"),
    ],
)
def test_an_input_without_files_is_named_in_the_error(write_input: Write, named: str, sentence: str) -> None:
    root = write_input("news.parquet", text=["x"]).parent
    (root / "texts").mkdir()
    (root / "texts/a.csv").write_text("a")
    (root / "empty").mkdir()
    with pytest.raises(InputError, match=sentence):
        keys(root / named)


@pytest.mark.parametrize(
    ("named", "output", "expected"),
    [
        ("/d", "/d/out", True),
        ("/d", "/d", True),
        ("/d", "/d/_labels", False),
        ("/d", "/data", False),
        ("/d/a.parquet", "/d/out", False),
        ("/d/*.parquet", "/d/out", False),
        ("/d/*", "/d/out", True),
        ("/d/*/*.parquet", "/d/out", True),
        ("/d/**/*.parquet", "/d/x/out", True),
        ("s3://b/in", "s3://b/in/out", True),
        ("s3://b/in", "s3://b/out", False),
    ],
)
def test_an_output_inside_the_input_is_detected(named: str, output: str, expected: bool) -> None:
    assert would_read(named, f"{output}/part-00000-of-00001.parquet") is expected


def test_footers_have_the_rows_and_the_bytes_of_the_text(write_input: Write) -> None:
    path = write_input("a.parquet", text=["привет" * 50] * 30, id=range(30), row_group_size=10)
    (footer,) = read_footers(Storage(), list_inputs(Storage(), [str(path)]), text_columns=["text"])
    assert [group.rows for group in footer.row_groups] == [10, 10, 10]
    assert all(0 < group.text_bytes < group.all_bytes for group in footer.row_groups)
    assert footer.schema == pa.schema({"text": pa.string(), "id": pa.int64()})


def test_a_footer_larger_than_the_first_request_is_read_completely(write_input: Write) -> None:
    path = write_input("wide.parquet", text=["x"], **{f"column_{i}": ["y"] for i in range(2_000)})
    (footer,) = read_footers(Storage(), list_inputs(Storage(), [str(path)]), text_columns=["text"])
    assert len(footer.schema) == 2_001


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"id,text\n1,a\n2,b\n", "is not a Parquet file, or it is truncated"),
        (b"x" * 20 + b"\x04\x00\x00\x00PAR1", "has a damaged Parquet footer"),
    ],
    ids=["empty", "csv", "damaged"],
)
def test_a_file_that_is_not_parquet_is_named_in_the_error(write_input: Write, content: bytes, sentence: str) -> None:
    root = write_input("good.parquet", text=["x"]).parent
    (root / "bad.parquet").write_bytes(content)
    with pytest.raises(InputError, match=rf"in/bad\.parquet {sentence}"):
        read_footers(Storage(), list_inputs(Storage(), [str(root)]), text_columns=["text"])


def test_a_truncated_file_is_named_in_the_error(write_input: Write) -> None:
    path = write_input("a.parquet", text=["x"] * 100)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="truncated"):
        read_footers(Storage(), list_inputs(Storage(), [str(path)]), text_columns=["text"])


@pytest.mark.parametrize(
    "arrow_type", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_a_text_column_may_have_any_string_type(arrow_type: pa.DataType) -> None:
    check_text_column(pa.schema({"text": arrow_type}), "text", flag="--text-column")


def test_a_text_column_that_is_missing_or_not_text_is_refused() -> None:
    columns = pa.schema({"text": pa.string(), "id": pa.int64()})
    with pytest.raises(InputError, match=r"no column 'txt' \(--text-column\); did you mean text\?"):
        check_text_column(columns, "txt", flag="--text-column")
    with pytest.raises(InputError, match=r"'id' .* must contain strings, not int64"):
        check_text_column(columns, "id", flag="--text-column")


@pytest.mark.slow
def test_ten_thousand_files_are_listed_and_their_footers_read_in_seconds(write_input: Write) -> None:
    first = write_input("0.parquet", text=["x"] * 50)
    for number in range(1, 10_000):
        os.link(first, first.parent / f"{number}.parquet")
    files = list_inputs(Storage(), [str(first.parent)])
    assert len(unify(read_footers(Storage(), files, text_columns=["text"])).schema) == 1
