"""What the metrics actor remembers of replicas, their owners and the parts they died with. The class itself, no Ray."""

from __future__ import annotations

import time

import pytest

from tirazh.pipeline.execution.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics()
    metrics.register("owner")
    metrics.replica_started("owner", "replica", {"torch": "2"})
    return metrics


def test_a_replica_that_ends_casts_suspicion_on_the_parts_it_worked_on(metrics: Metrics) -> None:
    for part in (1, 2, 3):
        metrics.part_started("owner", part)
    metrics.part_finished("owner", 3)
    metrics.replica_died("owner", "rank 0 died")
    assert [metrics.deaths_of(part) for part in (1, 2, 3)] == [1, 1, 0]
    assert metrics.death_reasons() == {1: "rank 0 died", 2: "rank 0 died"}
    assert (metrics.snapshot().deaths, metrics.snapshot().replicas) == (1, 0)


def test_an_owner_that_begins_again_has_died_without_a_word(metrics: Metrics) -> None:
    metrics.part_started("owner", 7)
    metrics.register("owner")
    assert metrics.deaths_of(7) == 1
    assert metrics.death_reasons() == {7: "the process that held the replica died"}


def test_an_owner_that_told_of_its_replicas_end_is_not_counted_twice(metrics: Metrics) -> None:
    metrics.part_started("owner", 7)
    metrics.replica_died("owner", "rank 0 died")
    metrics.register("owner")
    assert metrics.deaths_of(7) == metrics.snapshot().deaths == 1
    assert metrics.death_reasons() == {7: "rank 0 died"}


def test_a_silent_owner_is_told_once_for_a_silence(metrics: Metrics) -> None:
    metrics.heartbeat("owner", "handle", "replica")
    metrics.heartbeat("another", "its handle", None)
    assert metrics.take_silent_owners(60.0) == []
    time.sleep(0.01)
    assert metrics.take_silent_owners(0.001) == ["handle", "its handle"]
    assert metrics.take_silent_owners(0.001) == []
    metrics.heartbeat("owner", "handle", "replica")
    time.sleep(0.01)
    assert metrics.take_silent_owners(0.001) == ["handle"]


def test_an_actor_that_was_started_again_learns_from_a_sign_of_life_who_serves() -> None:
    metrics = Metrics()
    metrics.heartbeat("owner", "handle", "replica")
    metrics.heartbeat("starting", "its handle", None)
    assert metrics.snapshot().replicas == 1
