"""Successive halving (Karnin et al. 2013; Jamieson and Talwalkar 2016, algorithm 1) over prompt settings.

In every rung the candidates that are left are evaluated on the same rows, from the first row on; then the better half
of them survives, and the number of rows doubles. A candidate is one prompt setting with all of its variants of
scoring and calibration: these share what the engine computes, so none of them has to be given up. A candidate is as
good as its best variant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tirazh.errors import RequestError
from tirazh.pipeline.tuning.budget import TokenBudget

# Rows of the first rung, if there are so many. With fewer the first comparison is mostly chance.
FIRST_ROWS = 16


class Candidate(Protocol):
    """A prompt setting and its variants of scoring and calibration."""

    def cost(self, start: int, stop: int) -> int:
        """The tokens that the model reads in a call of `run` for the rows [start, stop); 0 for no rows."""

    def run(self, stop: int) -> None:
        """Compute the scores of all rows before `stop` that have none yet."""

    def values(self, stop: int) -> Sequence[float]:
        """The figure of every variant on the rows before `stop`; higher is better."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a candidate came: its last rung, from 1, 0 if it was never run; the rows of that rung; the figure of
    every variant on them; and its tokens in all rungs."""

    rung: int
    rows: int
    values: tuple[float, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """`standings` of all candidates in their order; `winner` is the index of the best one. `is_complete`: all planned
    rungs were run with all of their rows."""

    standings: tuple[Standing, ...]
    winner: int
    is_complete: bool


@dataclass(frozen=True, slots=True)
class RungStart:
    """What is about to be run: rung `number` of `total`, `left` candidates on `rows` rows. `tokens` are about those of
    this rung and the later ones."""

    number: int
    total: int
    left: int
    rows: int
    tokens: int


OnRung = Callable[[RungStart], object]


def halve(
    candidates: Sequence[Candidate], *, rows: int, budget: TokenBudget, on_rung: OnRung = lambda start: None
) -> Outcome:
    """Run successive halving with at most `rows` rows, within the budget.

    The last rung has one candidate and, if the budget allows, all rows. A rung that would exceed the budget gets
    fewer rows, the same for all of its candidates. Ties go to the candidate with fewer tokens, then to the first.
    Raises RequestError for a budget that is too small for the first rung.
    """
    plan = plan_rows(candidates, rows=rows, tokens=budget.left)
    needed = _cost(candidates, range(len(candidates)), 0, plan[0])
    if needed > budget.left:
        raise RequestError(
            f"--token-budget {budget.limit} is too small: the first comparison of {len(candidates)} prompts on "
            f"{plan[0]} rows and the held-out rows take {needed + budget.limit - budget.left} tokens; give a larger "
            "one, fewer --rows or a smaller --search"
        )
    standings = [Standing(0, 0, (), 0)] * len(candidates)
    live, seen, is_complete = list(range(len(candidates))), 0, True
    for number, target in enumerate(plan, start=1):
        live = _survivors(live, standings, keep=max(1, len(candidates) >> (number - 1))) if number > 1 else live
        stop = _affordable(candidates, live, seen, target, budget.left)
        is_complete = is_complete and stop == target
        if stop == seen and target > seen:
            break  # the budget is used up
        if stop == seen:
            continue  # there are no more rows
        ahead = _tokens_ahead(candidates, live, seen, (stop, *plan[number:]))
        on_rung(RungStart(number, len(plan), len(live), stop, min(ahead, budget.left)))
        for index in live:
            cost = candidates[index].cost(seen, stop)
            candidates[index].run(stop)
            budget.spend(cost)
            values = tuple(candidates[index].values(stop))
            standings[index] = Standing(number, stop, values, standings[index].tokens + cost)
        seen = stop
    (winner,) = _survivors(live, standings, keep=1)
    return Outcome(tuple(standings), winner, is_complete)


def plan_rows(candidates: Sequence[Candidate], *, rows: int, tokens: int) -> tuple[int, ...]:
    """The rows of every rung, each about twice those of the rung before.

    The most rows whose tokens stay within `tokens` if all candidates cost the same on average; the first rung has
    `FIRST_ROWS` at least, if there are so many.
    """
    mean = _cost(candidates, range(len(candidates)), 0, rows) / (len(candidates) * rows)
    low, high = min(FIRST_ROWS, rows), rows
    while low < high:
        middle = (low + high + 1) // 2
        if _planned_rows(middle, len(candidates)) * mean <= tokens:
            low = middle
        else:
            high = middle - 1
    return _rungs(low, len(candidates))


def _rungs(top: int, count: int) -> tuple[int, ...]:
    """The rows of every rung, for `count` candidates and `top` rows in the last rung.

    They double, or grow more slowly where the first rung would have fewer than `FIRST_ROWS`.
    """
    last = count.bit_length() - 1
    first = max(min(FIRST_ROWS, top), top >> last)
    return tuple(round(first * (top / first) ** (rung / last)) if last else top for rung in range(last + 1))


def _planned_rows(top: int, count: int) -> int:
    """The rows that all candidates run together."""
    total = before = 0
    for rung, rows in enumerate(_rungs(top, count)):
        total += max(1, count >> rung) * (rows - before)
        before = rows
    return total


def _survivors(live: Sequence[int], standings: Sequence[Standing], *, keep: int) -> list[int]:
    """The best `keep` of the candidates, in their order."""
    ranked = sorted(live, key=lambda index: (-max(standings[index].values), standings[index].tokens, index))
    return sorted(ranked[:keep])


def _cost(candidates: Sequence[Candidate], live: Sequence[int], start: int, stop: int) -> int:
    return sum(candidates[index].cost(start, stop) for index in live)


def _tokens_ahead(candidates: Sequence[Candidate], live: Sequence[int], seen: int, stops: Sequence[int]) -> int:
    """About the tokens of the rungs that end at `stops`, the first of which `live` run from row `seen` on."""
    tokens = 0.0
    for rung, stop in enumerate(stops):
        if stop > seen:
            tokens += _cost(candidates, live, seen, stop) * max(1, len(live) >> rung) / len(live)
        seen = max(seen, stop)
    return round(tokens)


def _affordable(candidates: Sequence[Candidate], live: Sequence[int], seen: int, target: int, tokens: int) -> int:
    """The largest stop in [seen, target] whose new rows cost at most `tokens`."""
    low, high = seen, max(seen, target)
    while low < high:
        middle = (low + high + 1) // 2
        if _cost(candidates, live, seen, middle) <= tokens:
            low = middle
        else:
            high = middle - 1
    return low
