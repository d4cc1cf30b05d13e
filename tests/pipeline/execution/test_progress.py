"""Progress events of a running job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from tirazh.errors import JobError
from tirazh.model.requests import EngineCounters
from tirazh.pipeline.execution.metrics import ProgressEvent
from tirazh.pipeline.execution.metrics_client import start_metrics
from tirazh.pipeline.execution.progress import JobProgress
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.planned_files import PlannedFile
from tirazh.pipeline.storage.disk import StoredFile


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """One part of four rows."""
    file = StoredFile(str(tmp_path / "a.parquet"), "a.parquet", 1, "1")
    return Plan(
        identity={},
        fingerprint="f",
        model_fingerprint="m",
        examples_sha256=None,
        dtype="float32",
        seq_length=64,
        schema=pa.schema([]),
        overrides=(),
        files=(PlannedFile(file, (0, 4)),),
        estimated_tokens=40,
    )


@pytest.mark.ray
def test_the_last_event_of_a_short_job_has_its_tokens(ray_local: None, plan: Plan) -> None:
    events: list[ProgressEvent] = []
    metrics = start_metrics()
    (part,) = plan.parts
    progress = JobProgress(plan, [part], samples=1, max_error_rate=0.1, on_progress=events.append)
    with progress.watching(metrics):
        ray.get(
            metrics.actor.set_counters.remote(
                "replica", EngineCounters(prompt_tokens=30, completion_tokens=12, finished=4)
            )
        )
        progress.add({"part": part.index, "rows": 4, "errors": 0, "written": True})
    assert (events[-1].prompt_tokens, events[-1].completion_tokens) == (30, 12)
    assert events[-1].rows_done == events[-1].rows_total == 4


def test_errors_of_earlier_runs_count_towards_the_error_budget(plan: Plan) -> None:
    halves = replace(plan, files=(replace(plan.files[0], cuts=(0, 100, 200)),))
    written = {"part": 1, "rows": 100, "errors": 11, "written": True}

    def progress(earlier_errors: int) -> JobProgress:
        return JobProgress(
            halves, halves.parts[1:], samples=1, max_error_rate=0.1, earlier_errors=earlier_errors, on_progress=None
        )

    progress(9).add(written)
    with pytest.raises(JobError, match=r"21 of 200 rows have errors, more than --max-error-rate 0\.1 allows"):
        progress(10).add(written)


def test_a_run_is_stopped_early_when_its_errors_are_clearly_too_many(plan: Plan) -> None:
    rows = replace(plan, files=(replace(plan.files[0], cuts=tuple(range(0, 1_000_001, 500))),))
    progress = JobProgress(rows, rows.parts, samples=1, max_error_rate=0.1, on_progress=None)
    progress.add({"part": 0, "rows": 500, "errors": 500, "written": True})
    with pytest.raises(JobError, match=r"1,000 of the first 1,000 rows have errors"):
        progress.add({"part": 1, "rows": 500, "errors": 500, "written": True})
