"""A rank counts as stuck when it has work but its heartbeat has not advanced within the limit."""

from __future__ import annotations

import pytest

from tirazh.actors.messages import ReplicaHeartbeat
from tirazh.actors.watch import StallClock, limit_s


def test_steps_keep_the_clock_at_zero() -> None:
    clock = StallClock(now=100.0)
    for second in range(5):
        assert clock.observe(ReplicaHeartbeat(count=second, is_busy=True), 100.0 + second) == 0


def test_time_with_work_but_without_a_step_counts() -> None:
    clock = StallClock(now=100.0)
    clock.observe(ReplicaHeartbeat(count=1, is_busy=True), 101.0)
    assert clock.observe(ReplicaHeartbeat(count=1, is_busy=True), 131.0) == 30


def test_an_idle_rank_never_counts_as_stuck() -> None:
    clock = StallClock(now=100.0)
    clock.observe(ReplicaHeartbeat(count=1, is_busy=False), 101.0)
    assert clock.observe(ReplicaHeartbeat(count=1, is_busy=False), 9999.0) == 0


def test_a_rank_that_does_not_answer_makes_no_progress() -> None:
    clock = StallClock(now=100.0)
    clock.observe(ReplicaHeartbeat(count=1, is_busy=False), 101.0)
    assert clock.observe(None, 141.0) == 40


def test_time_in_which_the_watching_process_did_not_run_does_not_count() -> None:
    clock = StallClock(now=100.0, max_gap_s=2.0)
    clock.observe(ReplicaHeartbeat(count=1, is_busy=True), 101.0)
    assert clock.observe(ReplicaHeartbeat(count=1, is_busy=True), 9999.0) == 2
    assert clock.observe(ReplicaHeartbeat(count=1, is_busy=True), 10_000.0) == 3


def test_the_clock_keeps_the_last_measurement_of_a_rank_that_no_longer_answers() -> None:
    clock = StallClock(now=100.0)
    clock.observe(ReplicaHeartbeat(count=1, is_busy=True, slowest_s=7.0), 101.0)
    clock.observe(None, 131.0)
    assert clock.slowest_s == 7.0


@pytest.mark.parametrize(
    ("slowest_s", "expected"),
    [(0.02, 60), (3.2, 60), (6.5, 65), (40, 400), (300, 600)],
    ids=[
        "a small model",
        "a layer of 13B on a core",
        "a slow layer",
        "a starved machine",
        "no limit beyond the start's",
    ],
)
def test_the_limit_is_the_timeout_or_ten_times_the_slowest_layer(slowest_s: float, expected: float) -> None:
    assert limit_s(timeout_s=60, ceiling_s=600, slowest_s=slowest_s) == expected


def test_a_timeout_above_the_ceiling_is_kept() -> None:
    assert limit_s(timeout_s=3600, ceiling_s=600, slowest_s=100) == 3600
