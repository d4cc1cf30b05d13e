"""Successive halving over candidates whose figures are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.errors import RequestError
from tirazh.pipeline.tuning.budget import TokenBudget
from tirazh.pipeline.tuning.halving import FIRST_ROWS, RungStart, halve, plan_rows


@dataclass
class Known:
    """A candidate with the same figures on any rows."""

    figures: Sequence[float]
    row_tokens: int = 10
    prefix_tokens: int = 0
    ran: list[int] = field(default_factory=list)

    def cost(self, start: int, stop: int) -> int:
        return (stop - start) * self.row_tokens + (self.prefix_tokens if stop > start else 0)

    def run(self, stop: int) -> None:
        self.ran.append(stop)

    def values(self, stop: int) -> Sequence[float]:
        return self.figures


def test_half_of_the_candidates_survive_and_the_rows_double() -> None:
    candidates = [Known([index / 10]) for index in range(8)]
    rungs: list[RungStart] = []
    found = halve(candidates, rows=160, budget=TokenBudget(10**6), on_rung=rungs.append)
    assert [(rung.left, rung.rows) for rung in rungs] == [(8, 20), (4, 40), (2, 80), (1, 160)]
    assert [rung.tokens for rung in rungs] == [160 * 10 * rest for rest in (1 + 0.5 + 0.5 + 0.5, 1.5, 1, 0.5)]
    assert found.winner == 7
    assert found.is_complete
    assert [standing.rung for standing in found.standings] == [1, 1, 1, 1, 2, 2, 3, 4]
    assert candidates[7].ran == [20, 40, 80, 160]


def test_with_few_rows_they_grow_more_slowly() -> None:
    rungs: list[RungStart] = []
    halve([Known([index / 10]) for index in range(4)], rows=30, budget=TokenBudget(10**6), on_rung=rungs.append)
    assert [(rung.left, rung.rows) for rung in rungs] == [(4, 16), (2, 22), (1, 30)]


def test_with_too_few_rows_for_several_rungs_all_candidates_are_run_on_them() -> None:
    found = halve([Known([index / 10]) for index in range(4)], rows=9, budget=TokenBudget(10**6))
    assert [(standing.rung, standing.rows) for standing in found.standings] == [(1, 9)] * 4
    assert (found.winner, found.is_complete) == (3, True)


def test_a_candidate_is_as_good_as_its_best_variant() -> None:
    found = halve([Known([0.5, 0.5]), Known([0.1, 0.9, 0.9])], rows=64, budget=TokenBudget(10**6))
    assert found.winner == 1


def test_of_equal_candidates_the_one_with_fewer_tokens_wins() -> None:
    found = halve([Known([0.5], 30), Known([0.5], 10), Known([0.5], 10)], rows=64, budget=TokenBudget(10**6))
    assert found.winner == 1


def test_a_shared_prefix_is_counted_once_in_a_rung() -> None:
    budget = TokenBudget(10**6)
    halve([Known([1.0], 10, prefix_tokens=500)], rows=64, budget=budget)
    assert budget.used == 500 + 64 * 10


def test_a_budget_too_small_for_the_first_rung_is_refused() -> None:
    with pytest.raises(RequestError, match=r"--token-budget 100 is too small: .* take 370 tokens; give a larger one"):
        halve([Known([1.0]), Known([0.5])], rows=64, budget=TokenBudget(100, reserved=50))


def test_one_candidate_runs_all_rows() -> None:
    found = halve([Known([1.0])], rows=64, budget=TokenBudget(10**6))
    assert (found.standings[0].rung, found.standings[0].rows) == (1, 64)


@given(
    figures=st.lists(st.lists(st.floats(0, 1), min_size=2, max_size=2), min_size=1, max_size=20),
    costs=st.lists(st.integers(1, 60), min_size=20, max_size=20),
    rows=st.integers(1, 400),
    limit=st.integers(1, 200_000),
    reserved=st.integers(0, 5_000),
)
def test_a_search_never_exceeds_its_budget(
    figures: list[list[float]], costs: list[int], rows: int, limit: int, reserved: int
) -> None:
    candidates = [Known(each, costs[index], prefix_tokens=costs[index]) for index, each in enumerate(figures)]
    budget = TokenBudget(limit, reserved)
    try:
        found = halve(candidates, rows=rows, budget=budget)
    except RequestError:
        assert not any(candidate.ran for candidate in candidates)
        return
    assert budget.used <= limit - reserved
    assert budget.used == sum(standing.tokens for standing in found.standings)
    assert all(standing.rung >= 1 for standing in found.standings)
    best = found.standings[found.winner]
    assert best.rung == max(standing.rung for standing in found.standings)
    # A candidate that is better than all others on any rows is never lost.
    assert max(best.values) == max(max(each) for each in figures)


@given(count=st.integers(1, 40), rows=st.integers(1, 2_000), tokens=st.integers(1, 10**6))
def test_the_planned_rows_never_shrink_and_stay_within_the_tokens(count: int, rows: int, tokens: int) -> None:
    candidates = [Known([0.0])] * count
    plan = plan_rows(candidates, rows=rows, tokens=tokens)
    assert list(plan) == sorted(plan)
    assert plan[-1] <= rows
    spent = sum(
        max(1, count >> rung) * (stop - start) for rung, (start, stop) in enumerate(zip((0, *plan), plan, strict=False))
    )
    assert spent * 10 <= tokens or plan[-1] == min(FIRST_ROWS, rows)
