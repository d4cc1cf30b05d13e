"""When a silent rank counts as stuck: work, no step, and the time is up."""

from __future__ import annotations

from tirazh.actors.messages import ReplicaHeartbeat
from tirazh.actors.watch import StallClock


def test_steps_keep_the_clock_at_zero() -> None:
    clock = StallClock(now=100.0)
    for second in range(5):
        assert clock.observe(ReplicaHeartbeat(beats=second, is_busy=True), 100.0 + second) == 0


def test_work_without_a_step_counts() -> None:
    clock = StallClock(now=100.0)
    clock.observe(ReplicaHeartbeat(beats=1, is_busy=True), 101.0)
    assert clock.observe(ReplicaHeartbeat(beats=1, is_busy=True), 131.0) == 30


def test_an_idle_rank_may_be_still_for_ever() -> None:
    clock = StallClock(now=100.0)
    clock.observe(ReplicaHeartbeat(beats=1, is_busy=False), 101.0)
    assert clock.observe(ReplicaHeartbeat(beats=1, is_busy=False), 9999.0) == 0


def test_a_rank_that_does_not_answer_counts_as_still() -> None:
    clock = StallClock(now=100.0)
    clock.observe(ReplicaHeartbeat(beats=1, is_busy=False), 101.0)
    assert clock.observe(None, 141.0) == 40
