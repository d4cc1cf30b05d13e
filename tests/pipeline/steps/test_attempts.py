"""How many attempts a cell gets in a round."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tirazh.pipeline.steps.accepted.attempts import first_accepted, next_attempts


def test_the_first_round_has_as_many_attempts_as_rows_are_wanted() -> None:
    nothing = np.zeros(3, np.int64)
    assert next_attempts(nothing, nothing, wanted=100, most=1_000).tolist() == [100, 100, 100]


def test_the_next_round_follows_the_rate_of_acceptance() -> None:
    attempted = np.array([100, 100, 100])
    counts = next_attempts(np.array([30, 30, 100]), attempted, wanted=100, most=1_000)
    assert counts[0] == counts[1]
    assert 70 / 0.42 < counts[0] < 70 / 0.28
    assert counts[2] == 0


def test_a_cell_that_accepts_nothing_stops_at_its_most_attempts() -> None:
    accepted, attempted = np.array([0, 50]), np.array([50, 50])
    rounds = 0
    while (counts := next_attempts(accepted, attempted, wanted=50, most=500)).any():
        attempted = attempted + counts
        rounds += 1
    assert attempted.tolist() == [500, 50]
    assert rounds <= 6


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 30), st.integers(1, 10))
@settings(deadline=None, max_examples=50)
def test_rounds_end_with_enough_rows_or_with_all_attempts(ninths: list[int], wanted: int, times: int) -> None:
    """A cell accepts the attempts whose number modulo 9 is below its own number."""
    most = wanted * times
    attempted = np.zeros(len(ninths), np.int64)
    accepted = attempted.copy()
    while (counts := next_attempts(accepted, attempted, wanted=wanted, most=most)).any():
        attempted = attempted + counts
        accepted = np.array(
            [sum(n % 9 < limit for n in range(end)) for end, limit in zip(attempted, ninths, strict=True)]
        )
    assert all(done >= wanted or tried == most for done, tried in zip(accepted, attempted, strict=True))


def test_the_first_rows_of_a_cell_that_pass_are_taken() -> None:
    cells = np.array([0, 0, 0, 2, 2, 0])
    passes = np.array([True, False, True, True, True, True])
    assert first_accepted(cells, passes, wanted=2).tolist() == [True, False, True, True, True, False]
    assert first_accepted(np.array([], np.int64), np.array([], bool), wanted=2).tolist() == []
