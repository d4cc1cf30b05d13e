"""What a run reports while it starts: Ray, the phases of the replica, and the rows that are safe."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tirazh.pipeline.execution.metrics import Metrics, MetricsSnapshot, ProgressEvent
from tirazh.pipeline.execution.progress import JobProgress, waiting_for_ray
from tirazh.pipeline.plan import Plan, plan_job
from tirazh.pipeline.spec import GenerateSpec


@pytest.fixture
def plan(model_dir: Path, write_input: Callable[..., Path]) -> Plan:
    path = write_input("a.parquet", prompt=["one"] * 20)
    output = str(path.parent.parent / "out")
    return plan_job(GenerateSpec(input=(str(path),), output=output, model=str(model_dir), part_rows=5))


def test_a_run_reports_that_it_waits_for_ray_until_it_is_connected(plan: Plan) -> None:
    seen: list[ProgressEvent] = []
    with waiting_for_ray(plan, None, seen.append) as connected:
        deadline = time.monotonic() + 30
        while not seen and time.monotonic() < deadline:
            time.sleep(0.01)
        connected()
        count = len(seen)
        time.sleep(1.2)
    assert len(seen) == count
    assert (seen[0].waiting_for, seen[0].rows_total, seen[0].parts_total) == ("Ray", 20, 4)


def test_the_metrics_know_what_the_replica_that_reported_last_waits_for() -> None:
    metrics, actor = Metrics(), cast("Any", None)
    metrics.heartbeat("one", actor, None, "cluster resources")
    metrics.heartbeat("two", actor, None, "loading the model")
    assert metrics.snapshot().waiting_for == "loading the model"
    metrics.heartbeat("two", actor, "replica", "loading the model")
    assert metrics.snapshot().waiting_for == "cluster resources"
    metrics.replica_died("one", "killed")
    assert metrics.snapshot().waiting_for == ""


def test_events_tell_rows_answered_from_rows_that_are_safe(plan: Plan) -> None:
    seen: list[ProgressEvent] = []
    progress = JobProgress(
        plan, list(plan.parts), samples=1, max_error_rate=1.0, replicas_wanted=2, on_progress=seen.append
    )
    progress.report()
    progress.snapshot = MetricsSnapshot(waiting_for="compiling kernels")
    progress.report()
    progress.snapshot = MetricsSnapshot(replicas=1)
    progress.report()
    progress.snapshot = MetricsSnapshot(replicas=1, requests=8)
    progress.add({"part": 0, "written": True, "rows": 5, "errors": 0})
    progress.snapshot = MetricsSnapshot(replicas=0, requests=8, waiting_for="loading the model")
    progress.report()
    assert [event.waiting_for for event in seen] == [
        *("a worker process", "compiling kernels", "the first rows", "", "loading the model")
    ]
    assert [(event.rows_done, event.rows_safe) for event in seen[-2:]] == [(8, 5), (8, 5)]
    assert seen[-1].replicas_wanted == 2
