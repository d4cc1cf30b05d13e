"""What a training says about workers that failed: which one, where and why, from what Ray Train reports."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from tirazh.actors.training_failures import FailureLog, explain, read_failures
from tirazh.errors import JobError

INFO = "A worker health check failed.\nWorker info: Worker(metadata=ActorMetadata(\n  hostname='gpu-7',\n  pid=9))"
LOST = RuntimeError("[/pytorch/third_party/gloo] Connection closed by peer [10.0.0.1]:24333")


def dead(text: str) -> WorkerHealthCheckFailedError:
    return WorkerHealthCheckFailedError(INFO, failure=RayActorError("0" * 32, text))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("its worker process has died. Worker exit type: SYSTEM_ERROR", "killed, out of memory, or crashed"),
        ("the node was running low on memory: killed due to memory pressure", "the machine ran out of memory"),
        ("The actor died because its node has died.", "its machine can no longer be reached"),
    ],
)
def test_a_dead_worker_is_named_with_its_host_and_reason(text: str, reason: str) -> None:
    described = explain({0: LOST, 1: dead(text)}).describe()
    assert described.startswith("training worker 1 on gpu-7 died (")
    assert reason in described


def test_an_error_of_its_own_comes_before_lost_connections() -> None:
    assert explain({0: LOST, 1: JobError("taken over")}).describe() == "training worker 1 failed: taken over"
    assert explain({0: LOST, 1: ValueError("bad")}).describe() == "training worker 1 failed: ValueError: bad"


def test_lost_connections_alone_mean_that_another_worker_is_gone() -> None:
    described = explain({0: LOST}).describe()
    assert described == "training worker 0 lost its connection to another worker, which died or cannot be reached"


def test_failures_are_read_back_and_a_line_that_is_not_complete_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "failures.jsonl"
    assert read_failures(path) == []
    log = FailureLog(str(path), None)
    log.after_exception(None, {1: dead("its worker process has died")})
    log.after_exception(None, {0: LOST})
    with path.open("a") as file:
        file.write('{"rank": 1, "ho')
    assert [(each.rank, each.kind) for each in read_failures(path)] == [(1, "died"), (0, "lost")]
