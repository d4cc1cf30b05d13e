"""A rank counts as stuck when it has work but its heartbeat has not advanced within the timeout."""

from __future__ import annotations

from tirazh.actors.messages import ReplicaHeartbeat
from tirazh.actors.watch import StallClock


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
