"""Compares the answers of two runs for the same rows."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tirazh.pipeline.evaluation.bootstrap import Interval, difference_interval
from tirazh.pipeline.evaluation.predictions import Predictions, RowFigures

_FEW_PAIRS = 25


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two runs, `first` and `second`, over the same rows.

    `rows` have a gold label; a row that abstained is wrong. `only_first_right` and `only_second_right` are the
    discordant pairs. `difference` is the accuracy of the first minus that of the second, `interval` its 95 % paired
    bootstrap interval. `changed` counts rows with different answers, with and without a gold label, among `all_rows`.
    `test` is "exact" or "chi-square", `p_value` that of McNemar's test: how likely is a difference at least this
    large if both are equally often right.
    """

    rows: int
    first_accuracy: float
    second_accuracy: float
    difference: float
    interval: Interval | None
    only_first_right: int
    only_second_right: int
    p_value: float
    test: str
    changed: int
    all_rows: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values with the names of the fields."""
        return asdict(self) | {"interval": None if self.interval is None else list(self.interval)}


def compare(
    first: Predictions | RowFigures, second: Predictions | RowFigures, *, seed: int = 0, resamples: int = 1000
) -> Comparison:
    """Compare the answers of two runs; row i of both is the same row, and `first` has its gold label.

    The labels are compared by their names, so that the runs may have different ones. Raises ValueError for different
    numbers of rows, and if no row has a gold label.
    """
    if len(first.gold) != len(second.gold):
        raise ValueError(f"the runs have different numbers of rows, {len(first.gold)} and {len(second.gold)}")
    answers = answers_by_name(second.chosen, second.labels, first.labels)
    known = first.gold >= 0
    rows = int(known.sum())
    if not rows:
        raise ValueError("no row has a gold label")
    gold = first.gold[known]
    first_right, second_right = first.chosen[known] == gold, answers[known] == gold
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    p_value, test = mcnemar(only_first, only_second)
    return Comparison(
        rows=rows,
        first_accuracy=float(first_right.mean()),
        second_accuracy=float(second_right.mean()),
        difference=(only_first - only_second) / rows,
        interval=(
            difference_interval(only_first, only_second, rows, seed=seed, resamples=resamples) if resamples else None
        ),
        only_first_right=only_first,
        only_second_right=only_second,
        p_value=p_value,
        test=test,
        changed=int((first.chosen != answers).sum()),
        all_rows=len(first.gold),
    )


def mcnemar(only_first: int, only_second: int) -> tuple[float, str]:
    """The two-sided p-value of McNemar's test (McNemar 1947), and its form.

    Below 25 discordant pairs it is the exact binomial test, else chi-square with one degree of freedom and the
    continuity correction of Edwards (1948).
    """
    pairs = only_first + only_second
    if pairs < _FEW_PAIRS:
        tail = sum(math.comb(pairs, k) for k in range(min(only_first, only_second) + 1))
        return min(1.0, 2 * tail / 2**pairs), "exact"
    statistic = max(0, abs(only_first - only_second) - 1) ** 2 / pairs
    return math.erfc(math.sqrt(statistic / 2)), "chi-square"


def answers_by_name(
    answers: NDArray[np.int64], labels: tuple[str, ...], of_first: tuple[str, ...]
) -> NDArray[np.int64]:
    """Turn indices of `labels` into those of equal names in `of_first`; other labels have indices behind, -1 stays."""
    index = {label: number for number, label in enumerate(of_first)}
    numbers = [index.setdefault(label, len(index)) for label in labels]
    return np.array([*numbers, -1], np.int64)[answers]
