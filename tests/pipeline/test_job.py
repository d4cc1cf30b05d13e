"""Whole jobs on a local Ray with a fake engine: run, resumed, refused, and with killed replicas."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from tests.pipeline.fakes import DEADLY, DEADLY_ONCE
from tests.seaweedfs import SeaweedServer
from tirazh.errors import CheckpointError, JobError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.execution.metrics import ProgressEvent
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec, JobSpec

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_local")]
LABELS = {"sport": "спорт", "economics": "экономика"}
Write = Callable[..., Path]


@pytest.fixture
def own_model(model_dir: Path, tmp_path: Path) -> Path:
    """A copy of the model directory in which fake engines may create files."""
    copy = tmp_path / "model"
    copy.mkdir()
    for file in model_dir.iterdir():
        os.link(file, copy / file.name)
    return copy


@pytest.fixture
def classify(tmp_path: Path, own_model: Path) -> Callable[..., ClassifySpec]:
    def make(**settings: Any) -> ClassifySpec:
        paths = {"input": (str(tmp_path / "in"),), "output": str(tmp_path / "out"), "model": str(own_model)}
        return ClassifySpec(**{**paths, "labels": LABELS, "dtype": "float32", **settings})

    return make


@pytest.fixture
def generate(tmp_path: Path, own_model: Path) -> Callable[..., GenerateSpec]:
    def make(**settings: Any) -> GenerateSpec:
        paths = {"input": (str(tmp_path / "in"),), "output": str(tmp_path / "out"), "model": str(own_model)}
        return GenerateSpec(**{**paths, "max_new_tokens": 8, "dtype": "float32", **settings})

    return make


def run(spec: JobSpec, **more: Any) -> dict[str, Any]:
    return run_job(spec, engine="module:tests.pipeline.fakes", **more)


def read(out: Path | str) -> pl.DataFrame:
    return pl.read_parquet(f"{out}/*.parquet")


def write_news(write_input: Write) -> None:
    texts = ["наш спорт сегодня", "вся экономика страны", None, "просто текст"] * 10
    topics = ["sport", "economics", "sport", "economics"] * 10
    write_input("a.parquet", id=range(40), text=texts, topic=topics)
    write_input("deep/b.parquet", id=range(40, 80), text=texts, topic=topics)


def test_a_job_writes_rows_manifest_and_report_and_returns_the_manifest_again_without_starting_ray(
    write_input: Write, classify: Callable[..., ClassifySpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_news(write_input)
    events: list[ProgressEvent] = []
    spec = classify(part_rows=15, gold_column="topic", calibrate="contextual", max_error_rate=0.5, abstain_below=0.6)
    manifest = run(spec, on_progress=events.append)

    rows = read(tmp_path / "out")
    assert rows["id"].to_list() == list(range(80))
    assert rows["label"].to_list() == ["sport", "economics", None, None] * 20
    assert rows["error"].to_list() == [None, None, "column 'text' is null", None] * 20
    assert rows["confidence"].to_list()[3] == 0.5

    assert (manifest["rows"], manifest["errors"], manifest["num_parts"]) == (80, 20, 6)
    assert (manifest["accuracy"], manifest["abstained"]) == (pytest.approx(2 / 3), 20)
    assert manifest["labels"] == {"sport": 20, "economics": 20}
    assert json.loads((tmp_path / "out/_tirazh/manifest.json").read_text())["parts"] == manifest["parts"]
    assert "<html" in (tmp_path / "out/_tirazh/report.html").read_text()
    assert verify(str(tmp_path / "out")).problems == ()

    last = events[-1]
    assert (last.rows_done, last.rows_total, last.parts_done, last.parts_total) == (80, 80, 6, 6)
    assert (last.error_rows, last.rows_resumed) == (20, 0)

    monkeypatch.setattr("tirazh.pipeline.build.ray_session", None)
    assert run(replace(spec, replicas="4")) == json.loads(json.dumps(manifest))


def test_finished_parts_are_not_made_again(
    write_input: Write, classify: Callable[..., ClassifySpec], tmp_path: Path
) -> None:
    write_news(write_input)
    run(classify(part_rows=15, max_error_rate=0.5))
    parts = sorted((tmp_path / "out").glob("part-*"))
    before = {part.name: (part.stat().st_mtime_ns, part.read_bytes()) for part in parts}
    missing = [parts[1], parts[4]]
    for part in missing:
        part.unlink()
    (tmp_path / "out/_SUCCESS").unlink()
    (tmp_path / f"out/.{parts[0].name}.{'0' * 32}.tmp").write_bytes(b"half a par")

    events: list[ProgressEvent] = []
    manifest = run(classify(max_error_rate=0.5, replicas="2"), on_progress=events.append)

    assert manifest["resumed_parts"] == 4
    assert events[0].rows_resumed == 80 - 30
    for part in parts:
        time_ns, content = before[part.name]
        assert part.read_bytes() == content
        assert (part.stat().st_mtime_ns == time_ns) == (part not in missing)
    assert sorted(os.listdir(tmp_path / "out")) == sorted(["_SUCCESS", "_tirazh", *before])


@pytest.mark.slow  # tests/system/test_same_rows.py says it of a real model
def test_rows_do_not_depend_on_the_number_of_parts_and_replicas(
    write_input: Write, generate: Callable[..., GenerateSpec], tmp_path: Path
) -> None:
    write_input("a.parquet", prompt=[f"новость {n}" for n in range(60)], row_group_size=25)
    run(generate(samples=2, output=str(tmp_path / "one")))
    run(generate(samples=2, output=str(tmp_path / "two"), part_rows=7, replicas="2", slots=3))
    assert read(tmp_path / "one").equals(read(tmp_path / "two"))
    assert read(tmp_path / "one")["sample"].to_list() == [0, 1] * 60


def test_too_many_row_errors_fail_the_job(
    write_input: Write, classify: Callable[..., ClassifySpec], tmp_path: Path
) -> None:
    write_input("a.parquet", text=["x"] * 50 + [None] * 50)
    with pytest.raises(JobError, match=r"rows have errors, more than --max-error-rate 0\.1"):
        run(classify(part_rows=10))
    assert list((tmp_path / "out").glob("part-*"))
    assert not (tmp_path / "out/_SUCCESS").exists()
    assert run(classify(part_rows=10, max_error_rate=0.5))["errors"] == 50


def test_the_error_of_a_replica_that_cannot_start_reaches_the_user(
    write_input: Write, classify: Callable[..., ClassifySpec], own_model: Path
) -> None:
    write_news(write_input)
    (own_model / "refuse").touch()
    with pytest.raises(CheckpointError, match="the weights of this model are not what its config says"):
        run(classify())


def test_a_dead_replica_is_restarted_and_no_row_is_lost(
    write_input: Write, generate: Callable[..., GenerateSpec], tmp_path: Path
) -> None:
    write_input("a.parquet", prompt=["новость"] * 40, max_new_tokens=[3] * 20 + [DEADLY_ONCE] + [3] * 19)
    manifest = run(generate(part_rows=5))
    assert manifest["replica_deaths"] == 1
    assert verify(str(tmp_path / "out")).problems == ()


@pytest.mark.slow
def test_a_part_that_kills_every_replica_is_skipped_and_named(
    write_input: Write, generate: Callable[..., GenerateSpec], tmp_path: Path
) -> None:
    write_input("a.parquet", prompt=["новость"] * 40, max_new_tokens=[3] * 20 + [DEADLY] + [3] * 19)
    with pytest.raises(
        JobError,
        match=r"part-00004-of-00008-\w+\.parquet \(rows 20–24 of .*a\.parquet; the last time: rank 0 .* died\) kille",
    ):
        run(generate(part_rows=5))
    there = sorted(path.name for path in (tmp_path / "out").glob("part-*"))
    assert [name[: len("part-00000-of-00008")] for name in there] == [
        f"part-{n:05d}-of-00008" for n in range(8) if n != 4
    ]
    assert verify(str(tmp_path / "out")).problems[0].startswith("1 of 8 parts are missing: part-00004")


@pytest.mark.slow  # tests/system/test_object_storage.py says it of a real model
@pytest.mark.s3
def test_a_job_reads_from_and_writes_to_object_storage(
    s3_server: SeaweedServer, generate: Callable[..., GenerateSpec], tmp_path: Path
) -> None:
    import s3fs

    s3_server.make_bucket("jobs")
    table = pl.DataFrame({"prompt": ["один", "два", ""], "n": [1, 2, 3]})
    store = s3fs.S3FileSystem(endpoint_url=s3_server.endpoint_url)
    with store.open("s3://jobs/in/a.parquet", "wb") as file:
        table.write_parquet(file)
    settings = {"input": ("s3://jobs/in",), "output": "s3://jobs/out", "endpoint_url": s3_server.endpoint_url}
    manifest = run(generate(**settings, prefix="t_", max_error_rate=0.5))
    assert (manifest["rows"], manifest["errors"]) == (3, 1)
    assert verify("s3://jobs/out", endpoint_url=s3_server.endpoint_url).problems == ()
    (part,) = store.glob("s3://jobs/out/*.parquet")
    with store.open(part) as file:
        rows = pl.read_parquet(file)
    assert rows["t_completion"].to_list() == ["один", "два", None]
    assert run(generate(**settings, prefix="t_", max_error_rate=0.5))["rows"] == 3


def test_input_columns_keep_their_types_through_ray(
    write_input: Write, classify: Callable[..., ClassifySpec], tmp_path: Path
) -> None:
    columns = {
        "text": pa.array(["наш спорт", "экономика"]).dictionary_encode(),
        "large": pa.array(["a", None], pa.large_string()),
        "view": pa.array(["a", None], pa.string_view()),
        "views": pa.array([[b"a"], None], pa.list_(pa.binary_view())),
        "nested": pa.array([[{"a": 1}], None]),
        "vector": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)),
        "pairs": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int8())),
        "time": pa.array([1, None], pa.timestamp("ns", "UTC")),
        "nothing": pa.nulls(2),
        "id": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"a" * 16, None], pa.binary(16))),
        "json": pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}", None])),
        "half": pa.array([1.5, None], pa.float16()),
        "duration": pa.array([1, None], pa.duration("us")),
    }
    path = write_input("a.parquet", **columns)
    run(classify())
    import pyarrow.parquet as pq

    (part,) = (tmp_path / "out").glob("part-*")
    before, after = pq.read_table(path), pq.read_table(part).select(list(columns))
    assert after.schema.remove_metadata() == before.schema.remove_metadata()
    assert after.to_pylist() == before.to_pylist()
