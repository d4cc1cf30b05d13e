"""Lists in files: .txt, .csv, .jsonl and .parquet, on disks and in object stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tirazh.errors import RequestError
from tirazh.pipeline.crossing import value_files
from tirazh.pipeline.crossing.declaration import parse_file
from tirazh.pipeline.crossing.value_files import read_values
from tirazh.pipeline.storage.filesystem import Storage


def read(folder: Path, name: str, content: str | bytes, *, column: str = "", weights: str | None = None) -> Any:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    file = parse_file(f"{path}{column}")
    assert file is not None
    return read_values(file, Storage(), weights=weights)


def test_a_text_file_has_one_value_a_line_without_blank_lines_bom_and_carriage_returns(tmp_path: Path) -> None:
    found = read(tmp_path, "a.txt", b"\xef\xbb\xbf" + "наука\r\n\r\n  спорт \n \n007\u2028x".encode())
    assert found.values == ["наука", "спорт", "007\u2028x"]
    assert found.place(1) == "line 3"


def test_csv_values_are_texts_of_the_first_column_or_a_named_one(tmp_path: Path) -> None:
    text = '\ufeffname,people\r\n"Москва, город",13\r\n\r\n"два\nряда",007\r\n'
    assert read(tmp_path, "a.csv", text).values == ["Москва, город", "два\nряда"]
    named = read(tmp_path, "a.csv", text, column="#people", weights="people")
    assert (named.values, named.weights) == (["13", "007"], [13.0, 7.0])


def test_jsonl_values_have_their_types(tmp_path: Path) -> None:
    assert read(tmp_path, "a.jsonl", '{"t": 1}\n\n{"t": 2.5}\r\n').values == [1, 2.5]
    found = read(tmp_path, "a.jsonl", '{"t": "a", "w": 3}\n{"w": 1, "t": "b"}', column="#t", weights="w")
    assert (found.values, found.weights) == (["a", "b"], [3, 1])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array(["a", "b"]), ["a", "b"]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array(["a", "b"], pa.string_view()), ["a", "b"]),
        (pa.array([1, 2], pa.uint8()), [1, 2]),
        (pa.array([0.5, 1.5], pa.float32()), [0.5, 1.5]),
    ],
)
def test_parquet_columns_of_texts_and_numbers_are_read(tmp_path: Path, values: Any, expected: list[Any]) -> None:
    pq.write_table(pa.table({"x": values, "w": [1, 2], "other": [[1], [2]]}), tmp_path / "a.parquet")
    file = parse_file(f"{tmp_path / 'a.parquet'}#x")
    assert file is not None
    found = read_values(file, Storage(), weights="w")
    assert (found.values, found.weights) == (expected, [1, 2])


def test_a_list_may_be_in_an_object_store() -> None:
    Storage().write("memory://lists/topics.txt", b"a\nb\n")
    file = parse_file("memory://lists/topics.txt")
    assert file is not None
    assert read_values(file, Storage()).values == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "column", "says"),
    [
        ("a.txt", b"a\n\xff\n", "", "line 2 is not UTF-8 text"),
        ("a.csv", "x,y\n1\n", "", "line 2 has 1 fields, and the header 2"),
        ("a.csv", 'x\n"a\n', "", "line 2 is not CSV"),
        ("a.csv", "x,y\n,2\n", "", "line 2 has no value in the column 'x'"),
        ("a.csv", "topic,y\n", "#topik", "there is no column 'topik'; did you mean topic"),
        ("a.csv", "", "", "it has no columns"),
        ("a.jsonl", '{"a": 1}\n[1]\n', "", "line 2 is not an object"),
        ("a.jsonl", '{"a": 1\n', "", "line 1 is not JSON"),
        ("a.jsonl", "[" * 100_000, "", "line 1 is not JSON"),
        ("a.jsonl", '{"a": 1, "b": 2}\n', "", "line 1: it has the columns 'a', 'b'; name one behind the file, as #a"),
        ("a.jsonl", '{"a": 1}\n{"b": 1}\n', "#a", "line 2: there is no column 'a'"),
        ("a.parquet", "not Parquet", "", "it cannot be read as Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_line(
    tmp_path: Path, name: str, content: str | bytes, column: str, says: str
) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        read(tmp_path, name, content, column=column)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_a_parquet_column_of_another_type_or_without_a_name_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [[1]], "y": [1]}), tmp_path / "a.parquet")
    for column, says in (("#x", "the column 'x' holds list"), ("", "it has the columns 'x', 'y'")):
        file = parse_file(f"{tmp_path / 'a.parquet'}{column}")
        assert file is not None
        with pytest.raises(RequestError, match=says):
            read_values(file, Storage())


def test_large_files_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_files, "MAX_TEXT_BYTES", 1_000)
    with pytest.raises(RequestError, match="is larger than"):
        read(tmp_path, "a.txt", "x" * 1_001)
    monkeypatch.setattr(value_files, "MAX_VALUES", 600)
    pq.write_table(pa.table({"x": range(2_000)}), tmp_path / "b.parquet")
    file = parse_file(str(tmp_path / "b.parquet"))
    assert file is not None
    with pytest.raises(RequestError, match="give the file as --input"):
        read_values(file, Storage())


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d.txt").mkdir()
    for name, says in (("none.txt", "does not exist"), ("d.txt", "it is a directory; name a file")):
        file = parse_file(str(tmp_path / name))
        assert file is not None
        with pytest.raises(RequestError, match=says):
            read_values(file, Storage())
