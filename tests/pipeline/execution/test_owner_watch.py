"""Owners of replicas that send no heartbeats are killed, while a job runs and at its end."""

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


def has_ended(pid: int, *, within_s: float = 15.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_a_stopped_owner_is_killed_at_the_end_of_the_job() -> None:
    owner, metrics = Owner.remote(), start_metrics()
    pid = ray.get(owner.pid.remote())
    with watching_owners(metrics, timeout_s=60.0):
        ray.get(metrics.actor.heartbeat.remote("it", ray.cloudpickle.dumps(owner), None))
        os.kill(pid, signal.SIGSTOP)
    assert has_ended(pid)


def test_an_owner_without_heartbeats_is_killed_after_the_timeout() -> None:
    owner, metrics = Owner.remote(), start_metrics()
    pid = ray.get(owner.pid.remote())
    with watching_owners(metrics, timeout_s=1.0):
        ray.get(metrics.actor.heartbeat.remote("it", ray.cloudpickle.dumps(owner), None))
        os.kill(pid, signal.SIGSTOP)
        assert has_ended(pid)


def test_a_dead_metrics_actor_is_tolerated() -> None:
    metrics = start_metrics()
    ray.get(metrics.actor.heartbeat.remote("it", None, None))
    ray.kill(metrics.actor, no_restart=True)
    with watching_owners(metrics, timeout_s=60.0):
        pass
