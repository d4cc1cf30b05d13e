"""A night without data: with `allow_empty` an empty table that every reader opens, without it the error of today."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.pipeline.output.conftest import MakeSpec, make_spec, no_ray
from tirazh.errors import InputError, OutputError, RequestError
from tirazh.jobs.planning import plan_facts
from tirazh.pipeline.build import run_job
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.runs_file import read_runs
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.preview.run import preview_job
from tirazh.pipeline.spec import ClassifySpec, EmbedSpec, GenerateSpec, ScoreSpec
from tirazh.pipeline.storage.filesystem import Storage

__all__ = ["make_spec", "no_ray"]

Write = Callable[..., Path]
SPECS: dict[str, Callable[..., Any]] = {
    "classify": lambda **values: ClassifySpec(labels={"a": "a", "b": "b"}, **values),
    "classify with gold": lambda **values: ClassifySpec(labels={"a": "a", "b": "b"}, gold_column="desk", **values),
    "classify with a batch": lambda **values: ClassifySpec(labels={"a": "a", "b": "b"}, calibrate="batch", **values),
    "generate": lambda **values: GenerateSpec(prompt_column="text", **values),
    "generate with values": lambda **values: GenerateSpec(
        template="{{ text }} {{ style }}", vary={"style": ["x", "y"]}, **values
    ),
    "score": lambda **values: ScoreSpec(**values),
    "embed": lambda **values: EmbedSpec(**values),
}


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty output needs no Ray."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("tirazh.pipeline.build.ray_session", refuse)


@pytest.fixture
def values(tmp_path: Path, model_dir: Path) -> dict[str, Any]:
    (tmp_path / "in").mkdir(exist_ok=True)
    return {
        "input": (str(tmp_path / "in" / "*.parquet"),),
        "output": str(tmp_path / "out"),
        "model": str(model_dir),
        "allow_empty": True,
    }


@pytest.mark.usefixtures("no_cluster")
@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("has_file", [False, True])
def test_an_input_without_rows_gives_a_complete_table_without_rows(
    kind: str, has_file: bool, values: dict[str, Any], write_input: Write, tmp_path: Path
) -> None:
    if has_file:
        write_input(
            "a.parquet", text=pa.array([], pa.string()), id=pa.array([], pa.int64()), desk=pa.array([], pa.string())
        )
    spec = SPECS[kind](**values)
    manifest = run_job(spec)
    assert (manifest["rows"], manifest["errors"], manifest["num_parts"]) == (0, 0, 1)
    out = tmp_path / "out"
    assert (out / "_SUCCESS").exists()
    (part,) = out.glob("part-*.parquet")
    table = pq.read_table(part)
    assert table.num_rows == ds.dataset(out, format="parquet").count_rows() == 0
    assert {"text", "error", *(["id"] if has_file else [])} <= set(table.column_names)
    assert verify(str(out)).problems == ()
    assert run_job(spec) == manifest
    assert [run["outcome"] for run in read_runs(OutputFiles(Storage(), str(out)))] == ["success", "success"]


@pytest.mark.usefixtures("no_ray")
def test_the_columns_are_those_of_a_night_with_rows(
    make_spec: MakeSpec, values: dict[str, Any], tmp_path: Path
) -> None:
    run_job(make_spec())
    (tmp_path / "in" / "a.parquet").rename(tmp_path / "full.parquet")
    pq.write_table(pq.read_table(tmp_path / "full.parquet").slice(0, 0), tmp_path / "in" / "a.parquet")
    run_job(make_spec(output=str(tmp_path / "empty"), allow_empty=True))
    full, empty = (pq.read_schema(next((tmp_path / name).glob("part-*"))) for name in ("out", "empty"))
    assert empty.equals(full)
    assert pq.read_table(tmp_path / "empty").num_rows == 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("*.parquet", "no file matches the input pattern"),
        ("", "contains no .parquet file (it contains nothing)"),
        ("night", "does not exist"),
    ],
)
def test_without_the_setting_it_is_an_error_that_names_it(
    values: dict[str, Any], tmp_path: Path, name: str, says: str
) -> None:
    spec = SPECS["score"](**values | {"input": (str(tmp_path / "in" / name),)})
    with pytest.raises(InputError, match="with --allow-empty it gives an empty output") as caught:
        run_job(replace(spec, allow_empty=False))
    assert says in str(caught.value)
    assert run_job(spec)["rows"] == 0


def test_files_of_another_format_are_no_empty_night(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "in" / "a.xml").write_text("<a/>")
    with pytest.raises(InputError, match=r"contains no \.parquet file"):
        run_job(SPECS["score"](**values | {"input": (str(tmp_path / "in"),)}))


def test_empty_tables_without_the_setting_are_an_error(values: dict[str, Any], write_input: Write) -> None:
    write_input("a.parquet", text=pa.array([], pa.string()))
    with pytest.raises(
        InputError, match="the input has no rows: all of its 1 files are empty tables; with --allow-empty"
    ):
        run_job(replace(SPECS["score"](**values), allow_empty=False))


@pytest.mark.usefixtures("no_ray")
def test_rows_that_come_later_are_not_silently_left_out(make_spec: MakeSpec, tmp_path: Path) -> None:
    full = tmp_path / "in" / "a.parquet"
    rows = pq.read_table(full)
    full.unlink()
    run_job(make_spec(allow_empty=True))
    pq.write_table(rows, full)
    with pytest.raises(OutputError, match=r"is complete, and the input file .*a.parquet was added to the input since"):
        run_job(make_spec(allow_empty=True))
    (problem,) = verify(str(tmp_path / "out")).problems
    assert problem.endswith("was added since the job was planned: its rows are not in this output")
    assert run_job(make_spec(allow_empty=True, overwrite=True))["rows"] == 30


def test_a_plan_says_that_there_are_no_rows(values: dict[str, Any]) -> None:
    facts = plan_facts(SPECS["classify"](**values))
    assert (facts["rows"], facts["files"]) == (0, 0)


def test_there_is_no_preview_of_no_rows(values: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="the input has no rows, so there is nothing to preview"):
        preview_job(SPECS["classify"](**values))
