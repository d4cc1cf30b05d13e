"""Progress events of a running job."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import ray

from tirazh.model.requests import EngineCounters
from tirazh.pipeline.execution.metrics import ProgressEvent
from tirazh.pipeline.execution.metrics_client import start_metrics
from tirazh.pipeline.execution.progress import JobProgress
from tirazh.pipeline.plan import Plan, PlannedFile
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
