"""Unusual and damaged input files, in whole jobs without Ray and without a model."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.without_ray import run_without_ray
from tirazh.errors import InputError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.input.schemas.arrow_types import planned_type
from tirazh.pipeline.output.leases import lease as lease_module
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.spec import ClassifySpec

TEXTS = ["наш спорт", "вся экономика", "просто текст"]


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    run_without_ray(monkeypatch)
    monkeypatch.setattr(lease_module, "RACE_WINDOW_S", 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def spec(folder: Path, tmp_path: Path, model_dir: Path) -> ClassifySpec:
    return ClassifySpec(
        input=(str(folder),),
        output=str(tmp_path / "out"),
        model=str(model_dir),
        labels={"sport": "спорт", "economics": "экономика"},
        dtype="float32",
        max_error_rate=1.0,
    )


def run(spec: ClassifySpec) -> list[dict[str, Any]]:
    """Run the job, verify its output and return the rows."""
    run_job(spec)
    assert verify(spec.output).problems == ()
    parts = sorted(Path(spec.output).glob("part-*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def texts(arrow_type: pa.DataType) -> pa.Array[Any]:
    return pa.array(TEXTS, pa.string()).cast(arrow_type)


READABLE_COLUMNS: dict[str, Callable[[], dict[str, pa.Array[Any]]]] = {
    "string": lambda: {"text": texts(pa.string())},
    "large string": lambda: {"text": texts(pa.large_string())},
    "string view": lambda: {"text": texts(pa.string_view())},
    "dictionary": lambda: {"text": pa.array(TEXTS).dictionary_encode()},
    "dictionary of large strings": lambda: {"text": texts(pa.large_string()).dictionary_encode()},
    "dictionary with small indices": lambda: {"text": texts(pa.dictionary(pa.int8(), pa.string()))},
    "beside a struct": lambda: {"text": texts(pa.string()), "more": pa.array([{"a": 1, "b": {"c": "x"}}, None, {}])},
    "beside lists of lists": lambda: {"text": texts(pa.string()), "more": pa.array([[[1], []], None, [[2, 3]]])},
    "beside lists of structs": lambda: {"text": texts(pa.string()), "more": pa.array([[{"a": "x"}], [], None])},
    "beside a map": lambda: {
        "text": texts(pa.string()),
        "more": pa.array([[("a", [1])], [], None], pa.map_(pa.string(), pa.list_(pa.int8()))),
    },
    "beside views in a struct": lambda: {
        "text": texts(pa.string()),
        "more": pa.array([{"v": "x"}, None, {"v": None}], pa.struct([pa.field("v", pa.string_view())])),
    },
    "beside bytes": lambda: {"text": texts(pa.string()), "more": pa.array([b"\x00\xff", None, b""])},
    "beside a column of nothing": lambda: {"text": texts(pa.string()), "more": pa.nulls(3)},
    "beside an empty name": lambda: {"text": texts(pa.string()), "": pa.array([1, 2, 3])},
    "beside names in other scripts": lambda: {
        "text": texts(pa.string()),
        "имя с пробелом / 名前 \"'": pa.array([1, 2, 3]),
    },
}


@pytest.mark.parametrize("kind", READABLE_COLUMNS)
def test_columns_of_every_type_keep_type_and_values(kind: str, spec: ClassifySpec, folder: Path) -> None:
    table = pa.table(READABLE_COLUMNS[kind]())
    pq.write_table(table, folder / "a.parquet")
    read = pq.read_table(folder / "a.parquet")
    rows = run(spec)
    assert [{name: row[name] for name in table.column_names} for row in rows] == read.to_pylist()
    assert [row["error"] for row in rows] == [None] * 3
    (part,) = Path(spec.output).glob("part-*.parquet")
    expected = [planned_type(field.type) for field in read.schema]
    assert pq.read_schema(part).types[: len(read.schema)] == expected


NAMES = [
    *(
        "with space.parquet",
        "новости за день.parquet",
        "名前.parquet",
        "a+b=c&d.parquet",
        "100%.parquet",
        "a%20b.parquet",
    ),
    *('it\'s "quoted".parquet', "#hash;semi,comma.parquet", "line\nbreak.parquet", "{braces}.parquet", "🙂.parquet"),
    *("day=2026-11-24/city=Нижний Новгород/a.parquet", "UPPER.PARQUET", "no-dot-but.pq"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("named", ["the file", "its directory"])
def test_input_files_with_unusual_names_are_read(name: str, named: str, spec: ClassifySpec, folder: Path) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": TEXTS}), path)
    rows = run(replace(spec, input=(str(path if named == "the file" else folder),)))
    assert [row["text"] for row in rows] == TEXTS


@pytest.mark.parametrize("name", ["out put", "вывод", "a%20b", "x=1;y", "[brackets]", "a*b"])
def test_outputs_with_unusual_names_are_written_and_resumed(name: str, spec: ClassifySpec, folder: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS}), folder / "a.parquet")
    spec = replace(spec, output=str(folder.parent / name), part_rows=1)
    run_job(spec)
    next(Path(spec.output).glob("part-00001-of-00003-*.parquet")).unlink()
    run_job(spec)
    assert verify(spec.output).problems == ()


def test_empty_files_and_row_groups_are_skipped(spec: ClassifySpec, folder: Path) -> None:
    empty = pa.table({"text": pa.array([], pa.string())})
    pq.write_table(empty, folder / "a.parquet")
    with pq.ParquetWriter(folder / "b.parquet", empty.schema) as writer:
        for table in (empty, pa.table({"text": TEXTS[:2]}), empty, pa.table({"text": TEXTS[2:]}), empty):
            writer.write_table(table)
    pq.write_table(empty, folder / "c.parquet")
    assert [row["text"] for row in run(spec)] == TEXTS


def test_a_giant_row_group_is_split_and_row_groups_of_one_row_are_combined(spec: ClassifySpec, folder: Path) -> None:
    many = [f"новость номер {n}, и довольно длинная" for n in range(5_000)]
    pq.write_table(pa.table({"text": many, "id": range(5_000)}), folder / "giant.parquet", row_group_size=5_000)
    pq.write_table(pa.table({"text": many, "id": range(5_000)}), folder / "tiny.parquet", row_group_size=1)
    rows = run(spec)
    assert [row["id"] for row in rows] == [*range(5_000), *range(5_000)]
    assert len(list(Path(spec.output).glob("part-*.parquet"))) > 10


def good_bytes() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": TEXTS * 200}), sink, compression="none", use_dictionary=False)
    return sink.getvalue().to_pybytes()


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "0 bytes": lambda data: b"",
    "4 bytes": lambda data: data[:4],
    "the first half": lambda data: data[: len(data) // 2],
    "the second half": lambda data: data[len(data) // 2 :],
    "without its last byte": lambda data: data[:-1],
    "without its footer's length": lambda data: data[:-8] + data[-4:],
    "a wrong magic at its end": lambda data: data[:-4] + b"PAR2",
    "an encrypted file's magic": lambda data: data[:-4] + b"PARE",
    "a footer longer than the file": lambda data: data[:-8] + (2**31 - 1).to_bytes(4, "little") + b"PAR1",
    "a footer of 0 bytes": lambda data: data[:-8] + bytes(4) + b"PAR1",
    "a footer of random bytes": lambda data: data[:-100] + hashlib.sha512(b"x").digest()[:92] + data[-8:],
    "CSV": lambda data: b"id,text\n" + b"1,a\n" * 100,
    "JSON": lambda data: b'{"text": "a"}\n' * 100,
    "gzip of it": gzip.compress,
    "its data zeroed": lambda data: data[:4] + bytes(len(data) - 600) + data[-596:],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_among_good_ones_is_named_in_the_error(kind: str, spec: ClassifySpec, folder: Path) -> None:
    (folder / "good.parquet").write_bytes(good_bytes())
    (folder / "damaged.parquet").write_bytes(DAMAGE[kind](good_bytes()))
    with pytest.raises(InputError, match=r"in/damaged\.parquet") as error:
        run_job(replace(spec, lease_s=1.0))
    assert "\n" not in str(error.value)
    (folder / "damaged.parquet").unlink()
    # The next run waits until no write of this one can be late: for its `lease_s`.
    assert len(run(replace(spec, overwrite=True))) == 600


@pytest.mark.parametrize("change", ["a row more", "the same size", "removed"])
def test_a_file_that_changes_while_the_job_runs_is_named_in_the_error(
    change: str, spec: ClassifySpec, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file changes between planning and reading: an output must not mix rows of two versions."""
    path = folder / "a.parquet"
    pq.write_table(pa.table({"text": TEXTS}), path)

    def swap(spec: object) -> str:
        if change == "removed":
            path.unlink()
        elif change == "the same size":
            before = path.stat()
            pq.write_table(pa.table({"text": TEXTS[::-1]}), path)
            os.truncate(path, before.st_size)
        else:
            pq.write_table(pa.table({"text": [*TEXTS, "ещё"]}), path)
        return "cpu"

    monkeypatch.setattr("tirazh.pipeline.build.resolve_device", swap)
    with pytest.raises(InputError, match=r"a\.parquet (has changed since the job was planned|does not exist)"):
        run_job(spec)


def test_text_that_is_not_utf8_is_a_row_error_in_every_string_type(spec: ClassifySpec, folder: Path) -> None:
    for number, kind in enumerate((pa.string(), pa.large_string(), pa.string_view())):
        pq.write_table(pa.table({"text": broken().cast(kind)}), folder / "a.parquet")
        rows_of = replace(spec, output=f"{spec.output}-{number}")
        run_job(rows_of)
        (part,) = Path(rows_of.output).glob("part-*.parquet")
        table = pq.read_table(part)
        assert table["error"].to_pylist() == [None, "column 'text' is not UTF-8 (byte 0xff at 3)", None, None]
        assert table["text"].cast(pa.large_binary())[1].as_py() == b"abc\xff\xfe"
        assert table["label"].to_pylist() == ["sport", None, "sport", "sport"]


def test_a_gold_label_that_is_not_utf8_is_not_counted(spec: ClassifySpec, folder: Path) -> None:
    pq.write_table(pa.table({"text": ["a"] * 4, "gold": broken()}), folder / "a.parquet")
    manifest = run_job(replace(spec, gold_column="gold"))
    assert (manifest["errors"], manifest["gold_rows"]) == (0, 3)


def broken() -> pa.Array[Any]:
    """Four texts, the second of them not UTF-8."""
    raw = pa.array([b"sport", b"abc\xff\xfe", "экономика".encode(), b"z"], pa.binary())
    return pa.StringArray.from_buffers(4, *raw.buffers()[1:])
