"""A run is recorded in the background; a tool that fails or hangs is one warning."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.receivers import receiver
from tirazh.pipeline.execution.metrics import ProgressEvent
from tirazh.pipeline.finetune.progress import TrainingProgress
from tirazh.pipeline.tracking import lineage, recorder
from tirazh.pipeline.tracking.record import RunEnd, RunStart, figures_of_entry, figures_of_manifest
from tirazh.pipeline.tracking.recorder import Recorder

START = RunStart(
    name="night-23",
    kind="classify",
    inputs=("s3://news/in/*.parquet", "/data/more.parquet"),
    output="s3://news/labelled/night-23",
    settings={"kind": "classify", "labels": ["sport", "culture"], "slots": 64, "template": None},
)
END = RunEnd(outcome="success", exit_code=0, figures={"rows": 350.0, "errors": 2.0, "accuracy": 0.84})
FAILED = RunEnd(outcome="failure", exit_code=1, sentence="9 of 25 rows have errors")
EVENT = ProgressEvent(
    rows_done=40,
    rows_total=350,
    rows_resumed=0,
    parts_done=1,
    parts_total=9,
    error_rows=2,
    prompt_tokens=900,
    completion_tokens=0,
    replicas=2,
    elapsed_s=9.0,
)


def record(tool: str, end: RunEnd) -> list[str]:
    """Record a short run, and return the warnings."""
    warnings: list[str] = []
    made = Recorder((tool,), warnings.append)
    made.begin(START)
    made.progress(EVENT)
    made.progress(EVENT)  # too soon to be recorded
    made.end(end)
    return warnings


class Stub:
    """A tool whose calls are kept, and which fails or waits where it is told to."""

    def __init__(self, *, fails: bool = False, wait: threading.Event | None = None) -> None:
        self.calls: list[str] = []
        self.entries: list[Any] = []
        self._fails, self._wait = fails, wait

    def begin(self, start: RunStart) -> None:
        self.calls.append("begin")
        if self._fails:
            raise ConnectionError("no server at https://user:secret@tracking.example")
        if self._wait is not None:
            self._wait.wait()

    def progress(self, seconds: float, figures: Any) -> None:
        self.calls.append(f"{figures['rows_done']:g} rows")

    def training(self, entries: Any) -> None:
        self.entries += entries

    def end(self, end: RunEnd) -> None:
        self.calls.append(end.outcome)


def test_a_run_is_recorded_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = Stub()
    monkeypatch.setattr(recorder, "make_tracker", lambda name: tool)
    assert record("mlflow", END) == []
    assert tool.calls == ["begin", "40 rows", "success"]


def test_a_tool_that_fails_is_one_warning_without_its_login(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = Stub(fails=True)
    monkeypatch.setattr(recorder, "make_tracker", lambda name: tool)
    (warning,) = record("mlflow", END)
    assert warning.startswith("track: mlflow does not record this run: ConnectionError: no server at")
    assert "secret" not in warning
    assert tool.calls == ["begin"]


def test_a_tool_that_hangs_does_not_hold_up_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(recorder, "make_tracker", lambda name: Stub(wait=release))
    monkeypatch.setattr(recorder, "CLOSE_S", 0.2)
    begin = time.monotonic()
    assert record("mlflow", END) == ["track: mlflow did not answer within 0.2 s"]
    assert time.monotonic() - begin < 30
    release.set()


def test_only_numbers_of_a_manifest_are_figures() -> None:
    manifest = {"rows": 3, "accuracy": 0.5, "output": "/out", "is_x": True, "evaluation": {"bits": 1.5}}
    assert figures_of_manifest(manifest) == {"rows": 3.0, "accuracy": 0.5, "bits": 1.5}
    assert figures_of_manifest({"rows": 3, "evaluation": None}) == {"rows": 3.0}


LOG: list[dict[str, Any]] = [
    {"step": 0, "perplexity": 40.25, "accuracy": 0.05, "seconds": 1.5},
    {"step": 1, "loss": 7.034331234567, "learning_rate": 3.3e-5, "grad_norm": None, "tokens": 95, "seconds": 0.51},
    {"step": 2, "loss": 6.5, "learning_rate": 6.7e-5, "grad_norm": 1.25, "tokens": 90, "seconds": 0.49},
    {"step": 2, "perplexity": 1.46822, "accuracy": 0.68, "seconds": 1.4},
]


def record_training(tool: str, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record a training of two steps, of which each event has one entry."""
    monkeypatch.setattr(recorder, "CLOSE_S", 240.0)
    warnings: list[str] = []
    made = Recorder((tool,), warnings.append)
    made.begin(replace(START, kind="finetune", output=str(output)))
    for entry in LOG:
        values = {"step": 2, "total_steps": 2, "loss": 6.7, "tokens_per_s": 9.0, "elapsed_s": 1.0, "eta_s": 0.0}
        made.progress(TrainingProgress(**values, figures={}, entries=(entry,)))
    made.end(END)
    assert warnings == []


def logged() -> dict[str, list[tuple[int, float]]]:
    """The figures of the log by name, with their steps."""
    found: dict[str, list[tuple[int, float]]] = {}
    for entry in LOG:
        for name, value in figures_of_entry(entry).items():
            found.setdefault(name, []).append((entry["step"], value))
    return found


def test_every_step_and_evaluation_of_a_training_reaches_a_tool(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = Stub()
    monkeypatch.setattr(recorder, "make_tracker", lambda name: tool)
    monkeypatch.setattr(tool, "progress", lambda seconds, figures: None)
    record_training("mlflow", tmp_path, monkeypatch)
    assert tool.entries == LOG
    assert set(logged()) >= {"train/loss", "train/grad_norm", "eval/accuracy", "eval/seconds"}


def test_tensorboard_reads_back_what_the_log_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = "tensorboard.backend.event_processing.event_accumulator"
    accumulators = pytest.importorskip(module, reason="needs the extra `tensorboard`")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    record_training("tensorboard", tmp_path, monkeypatch)
    (folder,) = (tmp_path / "_tirazh/tensorboard").iterdir()
    events = accumulators.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    for name, points in logged().items():
        read = [(each.step, each.value) for each in events.Scalars(name)]
        assert [step for step, _ in read] == [step for step, _ in points]
        assert [value for _, value in read] == pytest.approx([value for _, value in points], rel=1e-6)  # float32


def without_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "find_spec", lambda name: None)
    for name in ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE__TRANSPORT__TYPE", "OPENLINEAGE_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def assert_events(events: list[dict[str, Any]], last: str) -> None:
    assert [event["eventType"] for event in events] == ["START", last]
    first, second = events
    assert first["run"]["runId"] == second["run"]["runId"]
    assert first["job"]["name"] == "classify.night-23"
    assert [(each["namespace"], each["name"]) for each in first["inputs"]] == [
        ("s3://news", "in/*.parquet"),
        ("file", "/data/more.parquet"),
    ]
    (output,) = second["outputs"]
    assert (output["namespace"], output["name"]) == ("s3://news", "labelled/night-23")


def test_lineage_events_go_to_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    without_client(monkeypatch)
    with receiver() as marquez:
        monkeypatch.setenv("OPENLINEAGE_URL", marquez.url)
        monkeypatch.setenv("OPENLINEAGE_API_KEY", "a-secret-key")
        assert record("openlineage", END) == []
        assert {path for path, _ in marquez.posted} == {"/api/v1/lineage"}
        assert marquez.headers[0]["Authorization"] == "Bearer a-secret-key"
        assert_events(marquez.bodies, "COMPLETE")
        assert marquez.bodies[1]["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 350


def test_lineage_events_go_to_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_client(monkeypatch)
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(tmp_path / "events.jsonl"))
    assert record("openlineage", FAILED) == []
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert_events(events, "FAIL")
    assert events[1]["run"]["facets"]["errorMessage"]["message"] == FAILED.sentence


def test_lineage_events_go_through_the_client_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openlineage.client")
    with receiver() as marquez:
        monkeypatch.setenv("OPENLINEAGE_URL", marquez.url)
        assert record("openlineage", END) == []
        assert_events(marquez.bodies, "COMPLETE")


@pytest.mark.parametrize(("end", "status"), [(END, "FINISHED"), (FAILED, "FAILED")])
def test_mlflow_has_the_settings_the_progress_and_the_figures(
    end: RunEnd, status: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setattr(recorder, "CLOSE_S", 120.0)
    assert record("mlflow", end) == []
    client = mlflow.MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name("tirazh").experiment_id])
    assert (run.info.status, run.info.run_name) == (status, "night-23")
    assert run.data.params == {"kind": "classify", "labels": "['sport', 'culture']", "slots": "64"}
    assert run.data.metrics["progress.rows_done"] == 40
    assert run.data.metrics.items() >= {**end.figures, "exit_code": float(end.exit_code or 0)}.items()


def test_weights_and_biases_has_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setattr(recorder, "CLOSE_S", 120.0)
    assert record("wandb", END) == []
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(folder.glob("run-*.wandb"))
