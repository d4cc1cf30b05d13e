"""Text files are read without guessing types; a damaged line is named."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tirazh.errors import InputError
from tirazh.pipeline.input.footers import read_footers
from tirazh.pipeline.input.listing.files import find_inputs
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.read import read_rows
from tirazh.pipeline.input.text_files.tables import read_table
from tirazh.pipeline.storage.filesystem import Storage

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=20)


def table_of(path: Path) -> pa.Table:
    storage = Storage()
    (file,) = find_inputs(storage, [str(path)]).files
    return read_table(storage, file)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        table_of(path)
    return str(caught.value).replace(str(path), "FILE")


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_values_of_json_keep_their_types(tmp_path: Path) -> None:
    rows = [
        {"text": "one", "number": 1, "share": 0.5, "is_new": True, "tags": ["a"], "day": "2026-11-29", "id": "007"},
        {"text": "two\u2028lines", "later": None},
    ]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    table = table_of(path)
    assert table.to_pylist() == [rows[0] | {"later": None}, {name: rows[1].get(name) for name in [*rows[0], "later"]}]
    assert table.schema.field("day").type == pa.string()
    assert table.schema.field("later").type == pa.string()


def test_values_of_csv_are_texts_except_sampling_parameters(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b'\xef\xbb\xbfid,text,temperature,top_k\r\n007,"a, ""b""\nc",0.5,3\r\n8,,,\r\n')
    assert table_of(path).to_pylist() == [
        {"id": "007", "text": 'a, "b"\nc', "temperature": 0.5, "top_k": 3},
        {"id": "8", "text": "", "temperature": None, "top_k": None},
    ]


def test_a_txt_file_has_one_row_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "один\r\n\nдва\u2028\u0085три\n".encode())
    assert table_of(path).column("text").to_pylist() == ["один", "", "два\u2028\u0085три"]


def test_a_compressed_file_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.gz", gzip.compress(b'{"text": "x"}\n'))
    assert table_of(path).to_pylist() == [{"text": "x"}]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.fixed_dictionaries({"text": TEXTS, "n": st.integers(-(2**63), 2**63 - 1)}), min_size=1, max_size=8))
def test_any_texts_and_integers_come_back(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    lines = write(tmp_path / "r.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    assert table_of(lines).to_pylist() == rows
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerows([["text", "n"], *([row["text"], row["n"]] for row in rows)])
    cells = write(tmp_path / "r.csv", sink.getvalue().encode())
    assert table_of(cells).to_pylist() == [{"text": row["text"], "n": str(row["n"])} for row in rows]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "FILE line 2 is not JSON: Expecting value"),
        ("a.jsonl", b"[1]\n[2]\n", "FILE is not JSON: Extra data"),
        ("a.jsonl", b'{"a": 1}\n5\n', 'FILE line 2 is not a JSON object, such as {"text": "…"}'),
        ("a.jsonl", b'{"a": NaN}\n', "FILE line 1 is not JSON: NaN is no JSON number"),
        ("a.jsonl", b'{"a": 1}\n\n{"a": "b"}\n', "FILE line 3: 'a' is \"b\", which is of another type"),
        ("a.jsonl", b'{"a": 99999999999999999999}\n', "FILE line 1: 'a' is 99999999999999999999, which is of another"),
        ("a.jsonl", b'{"a": "\xff"}\n', "FILE line 1 is not UTF-8 (byte 0xff); convert the file"),
        ("a.csv", b"a,b\n1\n", "FILE line 2 has 1 values, but the first line names 2"),
        ("a.csv", b'a,b\n"1,2\n', "FILE line 2 is not CSV: unexpected end of data"),
        ("a.csv", b"text,temperature\nx,warm\n", "FILE: the column 'temperature' sets a sampling parameter, so it"),
        ("a.csv", b"\n", "FILE is empty; its first line must name the columns"),
        ("a.jsonl.gz", b"not gzip", "FILE is damaged: it cannot be decompressed"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    assert refusal(write(tmp_path / name, content)).startswith(says)


def test_a_text_file_is_cut_into_parts_like_a_parquet_file(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", "".join(f'{{"text": "t{index}", "n": {index}}}\n' for index in range(30)).encode()
    )
    storage = Storage()
    files = find_inputs(storage, [str(path)]).files
    (footer,) = read_footers(storage, files, text_columns=["text"])
    assert (footer.rows, footer.schema.names) == (30, ["text", "n"])
    part = Part(1, 3, footer.file, 10, 20)
    assert read_rows(part, storage).column("n").to_pylist() == list(range(10, 20))
    assert read_rows(part, storage, footer.schema, only=["text"]).column_names == ["text"]
