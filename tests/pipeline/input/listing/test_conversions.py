"""Text files as an input: the sentence has a command, and what the command writes is an input."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.errors import InputError
from tirazh.pipeline.input.listing import without_parquet
from tirazh.pipeline.input.listing.conversions import convert_directory, convert_file, text_format
from tirazh.pipeline.input.listing.files import find_inputs
from tirazh.pipeline.storage.filesystem import Storage

Row = dict[str, Any]

ROWS: list[Row] = [
    {"text": "первая строка", "id": 1, "tags": ["a", "b"]},
    {"text": 'в "кавычках",\nв две строки', "id": 2, "tags": None},
    {"text": "2026-11-29 10:00:00", "id": None, "tags": []},
]


@pytest.fixture(autouse=True)
def _text_files_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small text files are read as they are, so they would not be refused."""
    monkeypatch.setattr(without_parquet, "MAX_BYTES", 0)


def command_of(uri: Path | str) -> str:
    """The command in the refusal of an input."""
    with pytest.raises(InputError) as refused:
        find_inputs(Storage(), [str(uri)])
    assert "\n" not in str(refused.value)
    return "python -c " + str(refused.value).partition(": python -c ")[2]


def run(command: str) -> None:
    """Run a command as a user does, with this Python first on the PATH."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["sh", "-c", command], check=True, env={**os.environ, "PATH": path})


def as_lines(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write_csv(path: Path, delimiter: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([["text", "id"], *([row["text"], row["id"]] for row in ROWS)])


def only(*names: str) -> list[Row]:
    return [{name: row[name] for name in names} for row in ROWS]


WRITERS: dict[str, tuple[Callable[[Path], object], list[Row]]] = {
    "a.jsonl": (lambda path: path.write_bytes(as_lines(ROWS)), ROWS),
    "b o m.ndjson": (lambda path: path.write_bytes(b"\xef\xbb\xbf" + as_lines(ROWS) + b"\n"), ROWS),
    "it's $HOME `x`.json": (lambda path: path.write_bytes(as_lines(ROWS)), ROWS),
    "array.json": (lambda path: path.write_text(json.dumps(ROWS), encoding="utf-8"), ROWS),
    "packed.jsonl.gz": (lambda path: path.write_bytes(gzip.compress(as_lines(ROWS))), ROWS),
    "later keys.jsonl": (
        lambda path: path.write_bytes(b'{"a": 1}\n{"a": 2.5, "b": "x"}\n'),
        [{"a": 1.0, "b": None}, {"a": 2.5, "b": "x"}],
    ),
    "c.csv": (lambda path: write_csv(path, ","), only("text", "id")),
    "c.CSV": (lambda path: write_csv(path, ","), only("text", "id")),
    "d.tsv": (lambda path: write_csv(path, "\t"), only("text", "id")),
    "e.txt": (
        lambda path: path.write_bytes("раз\r\nдва\u2028\n\n".encode()),
        [{"text": "раз"}, {"text": "два\u2028"}, {"text": ""}],
    ),
    "f.orc": (lambda path: pyarrow.orc.write_table(pa.Table.from_pylist(ROWS), path), ROWS),
    "g.feather": (lambda path: pyarrow.feather.write_feather(pa.Table.from_pylist(ROWS), str(path)), ROWS),
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_command_for_a_file_writes_its_rows(name: str, tmp_path: Path) -> None:
    write, rows = WRITERS[name]
    write(tmp_path / name)
    run(command_of(tmp_path / name))
    (file,) = find_inputs(Storage(), [f"{tmp_path / name}.parquet"]).files
    assert pq.read_table(file.uri).to_pylist() == rows


@pytest.mark.parametrize("named", ["", "/*", "/**/*.jsonl"])
def test_the_command_for_a_directory_writes_a_file_beside_each(named: str, tmp_path: Path) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    for name in ("a.jsonl", "deep/b.jsonl"):
        (tmp_path / "in" / name).write_bytes(as_lines(ROWS))
    (tmp_path / "in/readme.md").write_text("texts")
    run(command_of(f"{tmp_path}/in{named}"))
    listing = find_inputs(Storage(), [str(tmp_path / "in")])
    assert [file.key for file in listing.files] == ["a.jsonl.parquet", "deep/b.jsonl.parquet"]
    assert listing.notes[0].startswith("3 files were passed over: a.jsonl, b.jsonl, readme.md (their names do not end")


def test_a_parquet_file_with_the_suffix_of_a_text_is_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "a.txt")
    assert len(find_inputs(Storage(), [str(tmp_path / "a.txt")]).files) == 1


def test_a_small_text_file_is_read_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    (tmp_path / "a.jsonl").write_bytes(as_lines(ROWS))
    assert len(find_inputs(Storage(), [str(tmp_path / "a.jsonl")]).files) == 1


def test_a_file_in_a_store_is_to_be_downloaded_first() -> None:
    storage = Storage()
    storage.write("memory://texts/a.jsonl", b'{"text": "x"}\n')
    for named in ("memory://texts/a.jsonl", "memory://texts"):
        with pytest.raises(InputError, match=r"download it, then run python -c "):
            find_inputs(storage, [named])


def test_files_of_an_unknown_format_get_no_command(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"contains no .parquet file \(it contains 1 × .docx\)$"):
        find_inputs(Storage(), [str(tmp_path)])
    assert text_format("a.jsonl.xz") is None


@given(
    st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1),
    st.sampled_from(["jsonl", "txt"]),
)
def test_a_command_is_python_whatever_the_name_of_the_file(name: str, kind: str) -> None:
    import shlex

    for command in (convert_file(f"/in/{name}", kind), convert_directory(f"/in/{name}", ["a.jsonl", "b.csv.gz"], kind)):
        program, option, code = shlex.split(command)
        assert (program, option) == ("python", "-c")
        assert compile(code, "command", "exec")
