"""The remaining time follows from the last minutes, so that the start of a run does not spoil it."""

from __future__ import annotations

from tirazh.pipeline.execution.recent_speed import RecentSpeed


def test_the_start_of_a_run_is_not_a_part_of_its_speed() -> None:
    speed = RecentSpeed()
    for second in range(60):  # a minute without a replica
        speed.add(second, rows=0, tokens=0, serves=False)
    assert speed.eta_s(1_000) is None
    for second in range(60, 71):
        speed.add(second, rows=10 * (second - 60), tokens=100 * (second - 60), serves=True)
    assert speed.eta_s(900) == 90.0
    assert speed.tokens_per_s == 100.0


def test_a_slower_second_half_counts_more_than_the_first() -> None:
    speed = RecentSpeed()
    for second in range(1_501):
        rows = 10 * min(second, 500) + max(0, second - 500)
        speed.add(second, rows=rows, tokens=rows, serves=True)
    assert speed.eta_s(100) == 100.0


def test_rows_in_bursts_do_not_make_the_estimate_jump() -> None:
    speed, estimates = RecentSpeed(), []
    for second in range(3_000):  # 64 rows every 40 seconds
        speed.add(second, rows=64 * (second // 40), tokens=second, serves=True)
        if second > 600:
            estimates.append(speed.eta_s(6_400))
    found = [eta for eta in estimates if eta is not None]
    assert len(found) == len(estimates)
    assert max(found) / min(found) < 1.6


def test_nothing_is_said_before_the_first_rows() -> None:
    speed = RecentSpeed()
    for second in range(20):
        speed.add(second, rows=0, tokens=50 * second, serves=True)
    assert speed.eta_s(10) is None
    assert speed.tokens_per_s == 50.0
