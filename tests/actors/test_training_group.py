"""When a group of training workers is started again, and what a run says that has ended."""

from __future__ import annotations

import pytest
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from tirazh.actors.training_group import TrainingGroupConfig, _EndsForReasons, _explained
from tirazh.errors import JobError

GROUP = TrainingGroupConfig(workers=2, max_restarts=3, storage="/nowhere", failures="/nowhere/failures.jsonl")


class Wrapped(Exception):
    """An error as Ray Train passes it on: with the worker's own inside."""

    def __init__(self, inner: Exception) -> None:
        super().__init__(str(inner))
        self._base_exc = inner


def test_a_worker_that_fails_for_a_reason_of_its_own_ends_the_run_with_that_reason() -> None:
    reason = JobError("the disk of /out is full")
    with pytest.raises(ControllerError) as caught:  # after which Ray Train starts no group
        _EndsForReasons().after_exception(None, {0: Wrapped(reason), 1: RuntimeError("connection closed")})
    assert _explained(caught.value, GROUP) is reason


def test_another_group_is_started_after_any_other_failure() -> None:
    _EndsForReasons().after_exception(None, {1: Wrapped(RuntimeError("connection closed by peer"))})
    failed = WorkerGroupError("failed", {1: RuntimeError("connection closed by peer")})
    assert "training worker 1 failed (tried 4 times): RuntimeError: connection closed" in str(_explained(failed, GROUP))
