"""The class of the metrics actor, without Ray: replicas, their owners, and the parts they died with."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from tirazh.pipeline.execution.metrics import Metrics, MetricsSnapshot


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics()
    metrics.register("owner")
    metrics.replica_started("owner", "replica", {"torch": "2"})
    return metrics


class Clock:
    now = 0.0


def set_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let the test set the time that `time.monotonic` returns."""
    clock = Clock()
    monkeypatch.setattr("tirazh.pipeline.execution.metrics.time.monotonic", lambda: clock.now)
    return clock


def test_the_death_of_a_replica_counts_against_the_parts_in_flight(metrics: Metrics) -> None:
    for part in (1, 2, 3):
        metrics.part_started("owner", part)
    metrics.part_finished("owner", 3)
    metrics.replica_died("owner", "rank 0 died")
    assert [metrics.deaths_of(part) for part in (1, 2, 3)] == [1, 1, 0]
    assert metrics.death_reasons() == {1: "rank 0 died", 2: "rank 0 died"}
    assert (metrics.snapshot().deaths, metrics.snapshot().replicas) == (1, 0)


def test_an_owner_that_registers_again_has_died_unreported(metrics: Metrics) -> None:
    metrics.part_started("owner", 7)
    metrics.register("owner")
    assert metrics.deaths_of(7) == 1
    assert metrics.death_reasons() == {7: "the process that held the replica died"}


def test_a_reported_death_is_not_counted_twice(metrics: Metrics) -> None:
    metrics.part_started("owner", 7)
    metrics.replica_died("owner", "rank 0 died")
    metrics.register("owner")
    assert metrics.deaths_of(7) == metrics.snapshot().deaths == 1
    assert metrics.death_reasons() == {7: "rank 0 died"}


def test_a_silent_owner_is_returned_once_until_its_next_heartbeat(metrics: Metrics) -> None:
    metrics.heartbeat("owner", "handle", "replica")
    metrics.heartbeat("another", "its handle", None)
    assert metrics.take_silent_owners(60.0) == []
    time.sleep(0.01)
    assert metrics.take_silent_owners(0.001) == ["handle", "its handle"]
    assert metrics.take_silent_owners(0.001) == []
    metrics.heartbeat("owner", "handle", "replica")
    time.sleep(0.01)
    assert metrics.take_silent_owners(0.001) == ["handle"]


def test_an_owner_whose_heartbeats_were_late_before_gets_more_time(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = set_clock(monkeypatch)
    for clock.now in (0.0, 1.0, 21.0):  # twenty seconds late once
        metrics.heartbeat("owner", "handle", "replica")
    for clock.now in range(22, 221):
        assert metrics.take_silent_owners(60.0, 600.0) == []
    clock.now = 221.0
    assert metrics.take_silent_owners(60.0, 600.0) == ["handle"]


def test_time_in_which_the_actor_itself_did_not_run_is_no_silence(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = set_clock(monkeypatch)
    metrics.heartbeat("owner", "handle", "replica")
    metrics.take_silent_owners(60.0)
    clock.now = 3600.0
    assert metrics.take_silent_owners(60.0) == []
    for clock.now in range(3601, 3650):
        assert metrics.take_silent_owners(60.0) == []
    clock.now = 3651.0
    assert metrics.take_silent_owners(60.0) == ["handle"]


def test_the_time_that_a_restart_takes_is_no_silence(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = set_clock(monkeypatch)
    metrics.heartbeat("owner", "handle", "replica")
    clock.now = 50.0
    metrics.register("owner")
    for clock.now in (51.0, 52.0):
        metrics.heartbeat("owner", "handle", "replica")
    for clock.now in range(53, 114, 5):
        silent = metrics.take_silent_owners(60.0, 600.0)
    assert silent == ["handle"]


def test_a_restarted_actor_learns_from_heartbeats_which_replicas_serve() -> None:
    metrics = Metrics()
    metrics.heartbeat("owner", "handle", "replica")
    metrics.heartbeat("starting", "its handle", None)
    assert metrics.snapshot().replicas == 1


def test_totals_never_go_backwards_when_the_actor_was_restarted() -> None:
    earlier = MetricsSnapshot(requests=40, prompt_tokens=7, completion_tokens=9, replicas=2, deaths=1)
    assert MetricsSnapshot(requests=3, replicas=1).not_below(earlier) == replace(earlier, replicas=1)
