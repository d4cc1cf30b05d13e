"""Tests of two samples, and the population stability index: pure functions of counts.

All are symmetric in the two samples, and find nothing in a sample compared with itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, gammaln, kolmogorov

Counts = NDArray[np.int64]
# A chi-squared test is exact enough from so many expected rows in every cell (Cochran 1954).
_FEW_EXPECTED = 5.0
_EXACT_ROWS = 5_000
_FIRST_RESAMPLES, _RESAMPLES, _MANY_LARGER = 999, 19_999, 100
_MOST_DRAWN = 20_000_000
# NumPy draws from at most so many rows.
_MOST_ROWS = 1_000_000_000
_NOTHING = 0.5


def psi(first: Counts, second: Counts) -> float:
    """The population stability index of two vectors of counts [K]: the sum of (p - q) ln(p / q).

    Half a row is added to every category, so that one without rows in one sample is not infinitely far. Categories
    without rows in both are left out. It is 0 if one sample has no rows.
    """
    first, second = _without_empty(first, second)
    if not first.sum() or not second.sum():
        return 0.0
    p, q = ((each + _NOTHING) / (each.sum() + _NOTHING * len(each)) for each in (first, second))
    return float(((p - q) * np.log(p / q)).sum())


def expected_psi(first: Counts, second: Counts) -> float:
    """The index to expect without any change: about (K - 1)(1/n + 1/m) for K categories and n and m rows
    (Yurdakul 2018). It is 0 if one sample has no rows."""
    first, second = _without_empty(first, second)
    rows, others = int(first.sum()), int(second.sum())
    return (len(first) - 1) * (1 / rows + 1 / others) if rows and others else 0.0


def same_shares(first: Counts, second: Counts, *, seed: int = 0) -> tuple[float, str]:
    """The p-value of "both samples have the same shares of the categories", and the name of the test.

    Pearson's chi-squared test; if a cell is expected to have less than 5 rows, its statistic is compared with those
    of random divisions of all rows into samples of the same sizes ("permutation").
    """
    first, second = _without_empty(first, second)
    rows, total = int(first.sum()), int(first.sum() + second.sum())
    if len(first) < 2 or not 0 < rows < total:
        return 1.0, "chi-squared"
    both = first + second
    expected = both * min(rows, total - rows) / total
    if expected.min() >= _FEW_EXPECTED or total >= _MOST_ROWS:
        return float(chdtrc(len(first) - 1, _statistic(first, both))), "chi-squared"
    # The same side is drawn for (first, second) and (second, first).
    drawn = min((first, second), key=lambda each: (int(each.sum()), each.tolist()))
    rng = np.random.default_rng(seed)
    count = larger = 0
    # A p-value that is not small needs no more digits (Besag and Clifford 1991).
    for wanted in (_FIRST_RESAMPLES, max(0, min(_RESAMPLES, _MOST_DRAWN // len(both)) - _FIRST_RESAMPLES)):
        if larger < _MANY_LARGER and wanted:
            draws = rng.multivariate_hypergeometric(both, int(drawn.sum()), size=wanted, method="marginals")
            count += wanted
            larger += int((_statistic(draws, both) >= _statistic(drawn, both) * (1 - 1e-12)).sum())
    return (1 + larger) / (1 + count), "permutation"


def same_share(first: int, rows: int, second: int, others: int) -> float:
    """The p-value of "`first` of `rows` and `second` of `others` are the same share".

    Fisher's exact test, for many rows the chi-squared test.
    """
    if not rows or not others or first + second in (0, rows + others):
        return 1.0
    table = np.array([[first, rows - first], [second, others - second]])
    both = table.sum(axis=0)
    is_small = (both * min(rows, others) / (rows + others)).min() < _FEW_EXPECTED
    if is_small or rows + others <= _EXACT_ROWS:
        return _fisher(first, rows, second, others)
    return same_shares(table[0], table[1])[0]


def same_distribution(first: Counts, second: Counts) -> tuple[float, float]:
    """The distance of Kolmogorov and Smirnov between two histograms over the same bins, and its p-value.

    The p-value is that of continuous values (Kolmogorov's limit); for values that share a bin it is too large, so
    that the test says less rather than more.
    """
    first, second = _same_length(first, second)
    rows, others = int(first.sum()), int(second.sum())
    if not rows or not others:
        return 0.0, 1.0
    distance = float(np.abs(np.cumsum(first) / rows - np.cumsum(second) / others).max())
    # 1/rows + 1/others, so that no product can be too large for an integer.
    return distance, float(kolmogorov(distance / np.sqrt(1 / rows + 1 / others)))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """The p-values corrected for their number (Holm 1979): the chance that any of them is below a level without any
    change is at most this level."""
    corrected, highest = {}, 0.0
    for place, name in enumerate(sorted(p_values, key=lambda each: p_values[each])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[name]))
        corrected[name] = highest
    return {name: corrected[name] for name in p_values}


def _fisher(first: int, rows: int, second: int, others: int) -> float:
    """The two-sided p-value of Fisher's exact test: the sum of the chances of all tables that are no more likely."""
    with_it, total = first + second, rows + others
    values = np.arange(max(0, with_it - others), min(rows, with_it) + 1)
    logs = _log_choose(rows, values) + _log_choose(others, with_it - values) - _log_choose(total, np.array(with_it))
    chances = np.exp(logs)
    chance = chances[first - int(values[0])]
    # Tables that are equally likely differ by rounding.
    return float(min(1.0, chances[chances <= chance * (1 + 1e-7)].sum()))


def _log_choose(count: int, chosen: NDArray[Any]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = gammaln(count + 1) - gammaln(chosen + 1) - gammaln(count - chosen + 1)
    return found


def _statistic(counts: NDArray[Any], both: Counts) -> Any:
    """Pearson's statistic of one sample [K], or of each of several [B, K], of the same size, out of `both` [K]."""
    rows, total = counts.sum(axis=-1, keepdims=True), both.sum()
    first, second = both * (rows / total), both * ((total - rows) / total)
    squares = (counts - first) ** 2
    return (squares / first + squares / second).sum(axis=-1)


def _without_empty(first: Counts, second: Counts) -> tuple[Counts, Counts]:
    first, second = _same_length(first, second)
    known = (first + second) > 0
    return first[known], second[known]


def _same_length(first: Counts, second: Counts) -> tuple[Counts, Counts]:
    length = max(len(first), len(second))
    padded = [np.pad(np.asarray(each, np.int64), (0, length - len(each))) for each in (first, second)]
    return padded[0], padded[1]
