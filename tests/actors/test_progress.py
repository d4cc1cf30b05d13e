"""The progress counter: it counts pieces of work and keeps the time of the slowest one."""

from __future__ import annotations

from tirazh.actors.progress import ProgressCounter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_slowest_piece_of_work_is_measured() -> None:
    clock = Clock()
    counter = ProgressCounter(clock)
    for seconds in (1, 5, 2):
        clock.now += seconds
        counter.beat()
    assert (counter.count, counter.slowest_s) == (3, 5)


def test_time_without_work_belongs_to_no_piece() -> None:
    clock = Clock()
    counter = ProgressCounter(clock)
    clock.now += 3600
    counter.begin()
    clock.now += 2
    counter.beat()
    assert counter.slowest_s == 2


def test_what_was_measured_before_a_restart_is_forgotten_and_the_count_keeps_growing() -> None:
    clock = Clock()
    counter = ProgressCounter(clock)
    clock.now += 60
    counter.beat()
    counter.restart()
    clock.now += 1
    counter.beat()
    assert (counter.count, counter.slowest_s) == (2, 1)
