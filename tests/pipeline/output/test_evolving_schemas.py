"""Whole jobs on inputs whose files differ in their columns, and on directories `key=value`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.without_ray import run_without_ray
from tirazh.errors import InputError, OutputError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.spec import ClassifySpec

MOMENT = 1_764_374_400  # seconds


@pytest.fixture
def spec(tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> ClassifySpec:
    run_without_ray(monkeypatch)
    return ClassifySpec(
        input=(str(tmp_path / "in"),),
        output=str(tmp_path / "out"),
        model=str(model_dir),
        labels={"sport": "sport", "economics": "economics"},
    )


@pytest.fixture
def night(write_input: Callable[..., Path]) -> None:
    """The hours of a night: no news, an author who is never named, other types, a column that was added."""
    seconds = pa.array([MOMENT, None], pa.timestamp("s"))
    write_input("h0.parquet", text=pa.nulls(0), author=pa.nulls(0), id=pa.nulls(0))
    write_input("h1.parquet", text=["a", "b"], author=["x", None], id=pa.array([1, 2], pa.int32()), at=seconds)
    write_input("h2.parquet", id=[1 << 40, 4], author=pa.nulls(2), text=["c", "d"], at=seconds.cast(pa.timestamp("ns")))
    write_input("h3.parquet", text=pa.array(["e"]).dictionary_encode(), author=["y"], id=[5], url=["u"])


def run(spec: ClassifySpec) -> tuple[dict[str, Any], list[str]]:
    lines: list[str] = []
    return run_job(spec, tell=lines.append), lines


def rows(spec: ClassifySpec, *names: str) -> list[tuple[Any, ...]]:
    tables = [pq.read_table(path) for path in sorted(Path(spec.output).glob("part-*.parquet"))]
    return [tuple(row[name] for name in names) for row in pa.concat_tables(tables).to_pylist()]


@pytest.mark.usefixtures("night")
def test_a_night_of_files_becomes_one_output_and_one_sentence_says_how(spec: ClassifySpec) -> None:
    manifest, (line,) = run(spec)
    assert rows(spec, "text", "author", "id", "url") == [
        *(("a", "x", 1, None), ("b", None, 2, None)),
        *(("c", None, 1 << 40, None), ("d", None, 4, None), ("e", "y", 5, "u")),
    ]
    moments = rows(spec, "at")
    assert moments[0] == moments[2] != moments[1]
    assert "'author' is string (null in 1 file)" in line
    assert "'id' is int64 (int32 in 1 file)" in line
    assert manifest["unified_columns"] == [line]
    assert "null in 1 file" in (Path(spec.output) / "_tirazh" / "report.html").read_text()
    assert verify(spec.output).problems == ()


@pytest.mark.usefixtures("night")
def test_the_same_night_is_resumed_and_a_rewritten_file_is_compared(spec: ClassifySpec, tmp_path: Path) -> None:
    spec = replace(spec, part_rows=1)
    run(spec)
    before = rows(spec, "text", "author", "id", "url", "at")
    (Path(spec.output) / "_SUCCESS").unlink()
    next(Path(spec.output).glob("part-00002-*.parquet")).unlink()
    path = tmp_path / "in" / "h1.parquet"
    pq.write_table(pq.read_table(path), path, compression="zstd")
    run(spec)
    assert rows(spec, "text", "author", "id", "url", "at") == before
    assert verify(spec.output).problems == ()


@pytest.mark.usefixtures("night")
def test_a_file_of_another_schema_that_is_added_later_does_not_stop_the_job(
    spec: ClassifySpec, write_input: Callable[..., Path]
) -> None:
    spec = replace(spec, part_rows=1)
    run(spec)
    before = rows(spec, "text", "id")
    (Path(spec.output) / "_SUCCESS").unlink()
    next(Path(spec.output).glob("part-00001-*.parquet")).unlink()
    write_input("h4.parquet", text=["f"], id=[0.5], place=["Moscow"])
    _, lines = run(spec)
    assert any("h4.parquet was added since the job started" in line for line in lines)
    assert rows(spec, "text", "id") == before
    (Path(spec.output) / "_SUCCESS").unlink()
    write_input("h1.parquet", text=["a", "b"], author=["x", None], place=["Kazan", None])
    with pytest.raises(OutputError, match=r"h1\.parquet have changed since the job started: column 'place' is new"):
        run(spec)


def test_a_conflict_is_refused_before_anything_is_written(spec: ClassifySpec, write_input: Callable[..., Path]) -> None:
    write_input("a.parquet", text=["a"], id=[1])
    write_input("b.parquet", text=["b"], id=["1"])
    with pytest.raises(InputError, match=r"b\.parquet has column 'id' as string, and .*a\.parquet has it as int64"):
        run(spec)
    assert not Path(spec.output).exists()


@pytest.fixture
def news(write_input: Callable[..., Path]) -> Path:
    for category in ("sport", "economics"):
        write_input(f"category={category}/hour=7/part-0.parquet", text=[f"{category} {row}" for row in range(2)])
    return write_input("category=__HIVE_DEFAULT_PARTITION__/hour=8/part-0.parquet", text=["?"])


@pytest.mark.usefixtures("news")
def test_directories_are_columns_of_the_output(spec: ClassifySpec) -> None:
    _, (line,) = run(replace(spec, gold_column="category", template="{{ hour }}: {{ text }}"))
    assert rows(spec, "text", "category", "hour") == [
        ("?", None, 8),
        *(("economics 0", "economics", 7), ("economics 1", "economics", 7)),
        *(("sport 0", "sport", 7), ("sport 1", "sport", 7)),
    ]
    assert line == "columns from the names of directories: 'category' (string), 'hour' (int64)"
    assert verify(spec.output).problems == ()


def test_directories_are_kept_over_a_resume_and_compared(spec: ClassifySpec, news: Path) -> None:
    spec = replace(spec, part_rows=1, text_column="category", max_error_rate=0.2)
    run(spec)
    before = rows(spec, "text", "category", "error")
    assert before[0] == ("?", None, "column 'category' is null")
    (Path(spec.output) / "_SUCCESS").unlink()
    next(Path(spec.output).glob("part-00000-*.parquet")).unlink()
    pq.write_table(pq.read_table(news, partitioning=None), news, compression="zstd")
    run(spec)
    assert rows(spec, "text", "category", "error") == before
    assert verify(spec.output).problems == ()


@pytest.mark.usefixtures("news")
def test_a_directory_with_the_name_of_an_added_column_is_refused(
    spec: ClassifySpec, write_input: Callable[..., Path]
) -> None:
    write_input("label=sport/a.parquet", text=["x"])
    with pytest.raises(InputError, match=r"already has a column 'label'; .*--prefix"):
        plan_job(spec)


def test_moments_that_nanoseconds_cannot_hold_make_the_column_microseconds(
    spec: ClassifySpec, write_input: Callable[..., Path]
) -> None:
    far = pa.array([253_402_300_799], pa.timestamp("s")).cast(pa.timestamp("us"))
    write_input("a.parquet", text=["a"], until=pa.array([MOMENT], pa.timestamp("s")).cast(pa.timestamp("ns")))
    write_input("b.parquet", text=["b"], until=far)
    plan = plan_job(spec)
    assert plan.schema.field("until").type == pa.timestamp("us")
    assert "'until' is timestamp[us] (timestamp[ns] in 1 file)" in plan.unified[0]
    run(spec)
    assert [until.year for (until,) in rows(spec, "until")] == [2025, 9999]


def test_integers_that_the_common_float_cannot_hold_are_refused_when_the_job_is_planned(
    spec: ClassifySpec, write_input: Callable[..., Path]
) -> None:
    write_input("a.parquet", text=["a"], id=[1.5])
    write_input("b.parquet", text=["b"], id=[(1 << 53) + 1])
    with pytest.raises(InputError, match=r"b\.parquet has column 'id' as int64 with values up to 9007199254740993"):
        plan_job(spec)
    write_input("b.parquet", text=["b"], id=[1 << 53])
    assert plan_job(spec).schema.field("id").type == pa.float64()
