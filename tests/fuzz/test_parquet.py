"""Damaged Parquet files, unusual schemas and unusual file names, in all stages except inference."""

from __future__ import annotations

import datetime
import decimal
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.fuzz.ending import attempt, refusal
from tests.fuzz.mutations import mutants
from tests.fuzz.tables import WRITERS, parquet, run_without_inference, valid_table
from tirazh.pipeline.input.parts import part_name
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.spec import JobSpec


@pytest.mark.parametrize("writer", WRITERS)
def test_a_randomly_damaged_file_works_or_is_refused(writer: str, job: Callable[..., JobSpec], tmp_path: Path) -> None:
    spec = job()
    table = valid_table().drop_columns(["tags"]) if writer == "delta" else valid_table()
    if writer == "delta":
        table = table.set_column(2, "topic", table["topic"].cast(pa.string()))
    good = parquet(table, **WRITERS[writer])
    path = tmp_path / "in" / "a.parquet"
    for near_end in (False, True):
        for name, content in mutants(good, count=20, seed=5, near_end=near_end):
            path.write_bytes(content)
            sentence = attempt("Parquet files", content, lambda: run_without_inference(spec))
            assert "a.parquet" in sentence or not sentence or "no rows" in sentence or "column" in sentence, (
                name,
                sentence,
            )


def footer(good: bytes) -> bytes:
    return good[-8 - int.from_bytes(good[-8:-4], "little") : -8]


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "an empty file": lambda good: b"",
    "only the magic": lambda good: b"PAR1",
    "only the magic, twice": lambda good: b"PAR1PAR1",
    "zero bytes": lambda good: bytes(4_000),
    "a CSV file": lambda good: b"id,text\n1,a\n" * 20,
    "another magic at the start": lambda good: b"PAR2" + good[4:],
    "another magic at the end": lambda good: good[:-4] + b"PAR2",
    "an encrypted footer": lambda good: b"PARE" + good[4:-4] + b"PARE",
    "a footer length of 0": lambda good: good[:-8] + bytes(4) + b"PAR1",
    "a footer length of 4 GiB": lambda good: good[:-8] + b"\xff\xff\xff\xff" + b"PAR1",
    "a footer length of the whole file": lambda good: good[:-8] + len(good).to_bytes(4, "little") + b"PAR1",
    "a footer length of 2 GiB": lambda good: good[:-8] + (0x7FFFFFFF).to_bytes(4, "little") + b"PAR1",
    "only a footer": lambda good: b"PAR1" + footer(good) + good[-8:],
    "a repeated footer": lambda good: good + footer(good) + good[-8:],
    "a footer of zero bytes": lambda good: good[: -8 - len(footer(good))] + bytes(len(footer(good))) + good[-8:],
    "a footer of 0xff bytes": lambda good: good[: -8 - len(footer(good))] + b"\xff" * len(footer(good)) + good[-8:],
    "two files in one": lambda good: good + good,
    "data of zero bytes": lambda good: b"PAR1" + bytes(len(good) - len(footer(good)) - 12) + footer(good) + good[-8:],
    "data of 0xff bytes": lambda good: (
        b"PAR1" + b"\xff" * (len(good) - len(footer(good)) - 12) + footer(good) + good[-8:]
    ),
    "no data": lambda good: b"PAR1" + footer(good) + good[-8:],
    "truncated in the middle": lambda good: good[: len(good) // 2],
    "truncated by one byte": lambda good: good[:-1],
    "truncated by the magic": lambda good: good[:-4],
    "without its first 100 bytes": lambda good: good[100:],
    "an extra byte": lambda good: good + b"\n",
    "an Arrow file": lambda good: b"ARROW1\0\0" + good[8:-6] + b"ARROW1",
    "an ORC file": lambda good: b"ORC" + good[3:-3] + b"ORC",
    "a gzip file": lambda good: b"\x1f\x8b\x08" + good,
    "JSON": lambda good: b'{"text": "a"}\n' * 50,
    "a login page": lambda good: b"<!doctype html><title>Sign in</title>" * 20,
    "an error response of S3": lambda good: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "a Git LFS pointer": lambda good: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
}


@pytest.mark.parametrize("name", BYTES)
def test_the_error_names_a_file_that_is_not_parquet(name: str, job: Callable[..., JobSpec], tmp_path: Path) -> None:
    content = BYTES[name](parquet(valid_table()))
    (tmp_path / "in" / "bad.parquet").write_bytes(content)
    (tmp_path / "in" / "good.parquet").write_bytes(parquet(valid_table()))
    sentence = attempt("Parquet files", content, lambda: run_without_inference(job()))
    assert "bad.parquet" in sentence or name in ("another magic at the start", "two files in one", "a repeated footer")


def test_a_damaged_page_is_refused_without_a_retry(job: Callable[..., JobSpec], tmp_path: Path) -> None:
    """An outage of the storage would be retried; a damaged page must not be mistaken for one."""
    good = parquet(valid_table(), compression="none", use_dictionary=False)
    at = good.index("новость номер 3".encode())
    (tmp_path / "in" / "a.parquet").write_bytes(good[: at - 4] + b"\xff\xff\xff\x7f" + good[at:])
    assert "a.parquet" in refusal("Parquet files", "a damaged page", lambda: run_without_inference(job()))


TEXTS = ["один", "два", "три"]
SCHEMAS: dict[str, Callable[[], pa.Table]] = {
    "no columns": lambda: pa.table({}),
    "an empty name": lambda: pa.table({"": TEXTS, "text": TEXTS}),
    "a name with a NUL": lambda: pa.table({"a\0b": TEXTS, "text": TEXTS}),
    "a name with a line break": lambda: pa.table({"a\nb": TEXTS, "text": TEXTS}),
    "a name with an escape sequence": lambda: pa.table({"\x1b[31m": TEXTS, "text": TEXTS}),
    "a name of 100,000 characters": lambda: pa.table({"n" * 100_000: TEXTS, "text": TEXTS}),
    "a name with dots": lambda: pa.table({"a.b.c": TEXTS, "text": TEXTS}),
    "a repeated name": lambda: pa.Table.from_arrays([pa.array(TEXTS)] * 3, ["a", "a", "text"]),
    "two text columns": lambda: pa.Table.from_arrays([pa.array(TEXTS)] * 2, ["text", "text"]),
    "names that differ by case": lambda: pa.table({"Text": TEXTS, "text": TEXTS}),
    "the name of an output column": lambda: pa.table({"label": TEXTS, "text": TEXTS}),
    "a reserved name": lambda: pa.table({"__tirazh_part": TEXTS, "text": TEXTS}),
    "5,000 columns": lambda: pa.table({"text": TEXTS, **{f"c{n}": TEXTS for n in range(5_000)}}),
    "text as bytes": lambda: pa.table({"text": [b"\xff\xfe", b"a", None]}),
    "text as UTF-8 bytes": lambda: pa.table({"text": [text.encode() for text in TEXTS]}),
    "text as numbers": lambda: pa.table({"text": [1, 2, 3]}),
    "text as nulls without a type": lambda: pa.table({"text": pa.nulls(3)}),
    "text as nulls": lambda: pa.table({"text": pa.nulls(3, pa.string())}),
    "text as lists": lambda: pa.table({"text": [TEXTS, TEXTS, None]}),
    "text as structs": lambda: pa.table({"text": [{"a": "b"}] * 3}),
    "text as a dictionary": lambda: pa.table({"text": pa.array(TEXTS).dictionary_encode()}),
    "text as a large string": lambda: pa.table({"text": pa.array(TEXTS, pa.large_string())}),
    "text as a view": lambda: pa.table({"text": pa.array(TEXTS, pa.string_view())}),
    "text that is not UTF-8": lambda: pa.table(
        {"text": pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pa.py_buffer(b"\xff\xfeab"))}
    ),
    "text with NULs": lambda: pa.table({"text": ["a\0b", "\0", "\0" * 9]}),
    "text of unusual characters": lambda: pa.table(
        {"text": ["\u202e", "\ufeff", "\U0010ffff", "e\u0301" * 50, "🏴‍☠️" * 99]}
    ),
    "text of whitespace": lambda: pa.table({"text": ["", " ", "\n\t\u2003"]}),
    "text of control tokens": lambda: pa.table({"text": ["<|endoftext|>", "<s></s><pad>", "<unk>"]}),
    "one long text": lambda: pa.table({"text": ["я" * 5_000_000, "a" * 10_000_000, " " * 10_000_000]}),
    "nested lists": lambda: pa.table({"text": TEXTS, "x": [[[[1]]], [[[]]], None]}),
    "a deep list": lambda: pa.table({"text": ["a"], "x": pa.array([deep_list(60)])}),
    "a map": lambda: pa.table({"text": TEXTS, "x": pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int64()))}),
    "a struct with a repeated name": lambda: pa.table(
        {"text": TEXTS, "x": pa.StructArray.from_arrays([pa.array([1, 2, 3])] * 2, ["a", "a"])}
    ),
    "lists of views": lambda: pa.table({"text": TEXTS, "x": pa.array([["a"]] * 3, pa.list_(pa.string_view()))}),
    "a map of views": lambda: pa.table(
        {"text": TEXTS, "x": pa.array([[("a", "b")]] * 3, pa.map_(pa.string(), pa.string_view()))}
    ),
    "fixed-size lists": lambda: pa.table({"text": TEXTS, "x": pa.array([[1, 2]] * 3, pa.list_(pa.int8(), 2))}),
    "decimals": lambda: pa.table({"text": TEXTS, "x": [decimal.Decimal("1.5"), decimal.Decimal(10**30), None]}),
    "dates and times": lambda: pa.table(
        {"text": TEXTS, "x": [datetime.datetime.max] * 3, "y": [datetime.date.min] * 3, "z": [datetime.time.max] * 3}
    ),
    "durations": lambda: pa.table({"text": TEXTS, "x": [datetime.timedelta(days=9**5)] * 3}),
    "half floats": lambda: pa.table({"text": TEXTS, "x": pa.array([1.0, 2.0, None], pa.float16())}),
    "time zones": lambda: pa.table({"text": TEXTS, "x": pa.array([1, 2, 3], pa.timestamp("ns", "Asia/Yakutsk"))}),
    "fixed-size bytes": lambda: pa.table({"text": TEXTS, "x": pa.array([b"ab"] * 3, pa.binary(2))}),
    "the UUID extension type": lambda: pa.table(
        {"text": TEXTS, "x": pa.ExtensionArray.from_storage(pa.uuid(), uuids())}
    ),
    "the JSON extension type": lambda: pa.table(
        {"text": TEXTS, "x": pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}", "[", "1"]))}
    ),
    "a dictionary of numbers": lambda: pa.table({"text": TEXTS, "x": pa.array([1, 2, 1]).dictionary_encode()}),
    "another column of nulls without a type": lambda: pa.table({"text": TEXTS, "x": pa.nulls(3)}),
    "300,000 rows in one row group": lambda: pa.table({"text": ["a"] * 300_000}),
    "no rows": lambda: pa.table({"text": pa.array([], pa.string())}),
    "overrides out of their range": lambda: pa.table(
        {"text": TEXTS, "seed": [float("nan"), 1e300, -1], "top_p": [9.0, -1.0, None], "max_new_tokens": [0, -5, 2**62]}
    ),
    "overrides of decimals": lambda: pa.table(
        {"text": TEXTS, "temperature": [decimal.Decimal("1e3"), decimal.Decimal("-1"), None], "top_k": [1.5, 1e9, -0.0]}
    ),
    "binary metadata": lambda: pa.table({"text": TEXTS}).replace_schema_metadata({b"\xff": b"\0" * 10_000}),
    "malformed pandas metadata": lambda: pa.table({"text": TEXTS}).replace_schema_metadata({"pandas": "{"}),
    "malformed Arrow metadata": lambda: pa.table({"text": TEXTS}).replace_schema_metadata({"ARROW:schema": "x"}),
}


def deep_list(levels: int) -> list[Any]:
    value: list[Any] = [1]
    for _ in range(levels):
        value = [value]
    return value


def uuids() -> pa.Array[Any]:
    return pa.array([bytes(16)] * 3, pa.binary(16))


@pytest.mark.parametrize("kind", ["classify", "generate"])
@pytest.mark.parametrize("name", SCHEMAS)
def test_an_unusual_table_works_or_is_refused(
    name: str, kind: str, job: Callable[..., JobSpec], tmp_path: Path
) -> None:
    content = parquet(SCHEMAS[name]())
    (tmp_path / "in" / "a.parquet").write_bytes(content)
    overrides = {"max_new_tokens": 4, "prompt_column": "text"} if kind == "generate" else {}
    attempt("tables", (kind, content), lambda: run_without_inference(job(kind, **overrides)))


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_unusual_table_with_a_template_works_or_is_refused(
    name: str, job: Callable[..., JobSpec], tmp_path: Path
) -> None:
    table = SCHEMAS[name]()
    content = parquet(table)
    (tmp_path / "in" / "a.parquet").write_bytes(content)
    template = "{{ text|trim }}{% if x %}{{ x }}{% endif %}" if "x" in table.column_names else "{{ text }}:"
    attempt("tables", ("template", content), lambda: run_without_inference(job(template=template)))


NAMES = [
    *(
        "a b.parquet",
        "новости.parquet",
        "a'b\".parquet",
        "a%2e%2e%2fb.parquet",
        "a?b.parquet",
        "a*b.parquet",
        "[x].parquet",
    ),
    *("a;rm -rf ~.parquet", "$(id).parquet", "-rf.parquet", "a\nb.parquet", "\x1b[31m.parquet", "\u202e.parquet"),
    *("date=..%2F..%2Fetc/a.parquet", "kind=spam/a.parquet", "text=../a.parquet", "e\u0301.parquet", "CON.parquet"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_with_an_unusual_name_is_read_and_no_other_file_appears(
    name: str, job: Callable[..., JobSpec], tmp_path: Path
) -> None:
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(parquet(valid_table()))
    before = sorted(os.listdir(tmp_path))
    plan = plan_job(job())
    assert {part.name for part in plan.parts} <= {part_name(n, len(plan.parts), plan.id) for n in range(9)}
    assert attempt("file names", name, lambda: run_without_inference(job())) == ""
    assert sorted(os.listdir(tmp_path)) == before


def test_a_name_that_is_not_utf_8_is_refused(job: Callable[..., JobSpec], tmp_path: Path) -> None:
    (tmp_path / "in" / os.fsdecode(b"\xff\xfe.parquet")).write_bytes(parquet(valid_table()))
    assert "not UTF-8" in refusal("file names", b"\xff\xfe.parquet", lambda: run_without_inference(job()))


def test_special_files_in_an_input_directory_work_or_are_refused(job: Callable[..., JobSpec], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "good.parquet").write_bytes(parquet(valid_table()))
    kinds: dict[str, Callable[[Path], object]] = {
        "a broken link": lambda path: path.symlink_to("nowhere"),
        "a link to itself": lambda path: path.symlink_to(path),
        "a named pipe": lambda path: os.mkfifo(path),
        "a directory": lambda path: path.mkdir(),
        "a device": lambda path: path.symlink_to("/dev/zero"),
        "a link to a parent directory": lambda path: path.symlink_to(tmp_path),
    }
    for name, make in kinds.items():
        path = folder / "odd.parquet"
        make(path)
        attempt("file names", name, lambda: run_without_inference(job()))
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.mark.parametrize(
    "uri",
    [
        "ftp://host/x",
        "https://host/x.parquet",
        "file:///no/such",
        "s3://",
        "s3:///x",
        "gs://",
        "http://[::1",
        "://x",
        "x://",
    ],
)
def test_an_unusable_input_address_is_refused(uri: str, job: Callable[..., JobSpec]) -> None:
    refusal("file names", uri, lambda: plan_job(job(input=uri)))
