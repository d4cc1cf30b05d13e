"""Who holds a replica and does not answer is ended: while a job runs, and when it is over."""

from __future__ import annotations

import os
import signal
import time

import pytest
import ray

from tirazh.pipeline.execution.metrics_client import start_metrics
from tirazh.pipeline.execution.owner_watch import watching_owners

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_local")]


@ray.remote(num_cpus=0)
class Owner:
    def pid(self) -> int:
        return os.getpid()


def is_gone(pid: int, *, within_s: float = 15.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_an_owner_that_was_stopped_does_not_outlive_the_job() -> None:
    owner, metrics = Owner.remote(), start_metrics()
    pid = ray.get(owner.pid.remote())
    with watching_owners(metrics, timeout_s=60.0):
        ray.get(metrics.actor.heartbeat.remote("it", owner, None))
        os.kill(pid, signal.SIGSTOP)
    assert is_gone(pid)


def test_one_that_falls_silent_is_ended_in_time() -> None:
    owner, metrics = Owner.remote(), start_metrics()
    pid = ray.get(owner.pid.remote())
    with watching_owners(metrics, timeout_s=1.0):
        ray.get(metrics.actor.heartbeat.remote("it", owner, None))
        os.kill(pid, signal.SIGSTOP)
        assert is_gone(pid)


def test_nobody_is_asked_when_nobody_answers() -> None:
    metrics = start_metrics()
    ray.get(metrics.actor.heartbeat.remote("it", None, None))
    ray.kill(metrics.actor, no_restart=True)
    with watching_owners(metrics, timeout_s=60.0):
        pass
