"""Percentile bootstrap intervals (Efron and Tibshirani 1993, chapter 13) on counts of cells instead of rows.

Drawing N of N rows with replacement, and counting them by cell, is one multinomial draw. So a figure that follows
from the counts of cells is resampled exactly, in a time that does not grow with the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tirazh.pipeline.evaluation.confusion import Matrix
from tirazh.pipeline.evaluation.ranking import BINS, RankedRows, most_taken

Interval = tuple[float, float]
# Up to so many different values a resample is exact.
MOST_CELLS = 4096
_LEVEL = 0.95


def confusion_intervals(matrix: Matrix, *, seed: int, resamples: int) -> dict[str, Interval]:
    """95 % intervals of `accuracy` over answered rows, `accuracy_abstained_wrong` and `macro_f1`. Exact."""
    golds, answers = np.nonzero(matrix)
    num_labels = len(matrix)
    is_right, is_answer = golds == answers, answers < num_labels

    def figures(counts: NDArray[np.int64]) -> tuple[Any, ...]:
        support = np.bincount(golds, weights=counts, minlength=num_labels)
        predicted = np.bincount(answers, weights=counts, minlength=num_labels + 1)[:-1]
        right = np.bincount(golds[is_right], weights=counts[is_right], minlength=num_labels)
        present = support > 0
        answered = counts[is_answer].sum()
        f1 = np.mean(2 * right[present] / (support[present] + predicted[present]))
        return right.sum() / answered if answered else np.nan, right.sum() / counts.sum(), f1

    found = _resample(matrix[golds, answers], figures, seed=seed, resamples=resamples)
    names = ("accuracy", "accuracy_abstained_wrong", "macro_f1")
    return {name: interval for name, interval in zip(names, found, strict=True) if not np.isnan(interval[0])}


def ranking_intervals(ranked: RankedRows, *, seed: int, resamples: int) -> dict[str, Interval]:
    """95 % intervals of `ece`, and of `coverage_at_5_percent` as a share of the ranked rows.

    Exact if every group of `ranked` has one confidence. In a merged group all rows of one outcome count with their
    mean confidence, and are taken together.
    """
    groups = len(ranked.rows)
    wrong = ranked.rows - ranked.right
    counts = np.concatenate([ranked.right, wrong])
    means = np.concatenate([ranked.right_sum, ranked.wrong_sum]) / np.maximum(counts, 1)
    gains = np.concatenate([np.ones(groups), np.zeros(groups)]) - means
    bins = np.concatenate([ranked.bin, ranked.bin])

    def figures(drawn: NDArray[np.int64]) -> tuple[Any, ...]:
        gaps = np.bincount(bins, weights=drawn * gains, minlength=BINS)
        taken = np.cumsum(drawn[:groups] + drawn[groups:])
        most = most_taken(taken, np.cumsum(drawn[groups:]), 0.05)
        return np.abs(gaps).sum() / taken[-1], most / taken[-1]

    found = _resample(counts, figures, seed=seed, resamples=resamples)
    return dict(zip(("ece", "coverage_at_5_percent"), found, strict=True))


def mean_interval(values: NDArray[np.float64], *, seed: int, resamples: int) -> Interval:
    """95 % interval of the mean of `values` [N].

    Exact up to 4096 different values. Beyond, neighbouring values share a cell, and the mean of the rows drawn from a
    cell is normal with the variance of the cell: its mean and variance are exact, its shape by the central limit
    theorem.
    """
    ordered = np.sort(values)
    starts = np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1])
    if len(starts) > MOST_CELLS:
        band = starts * MOST_CELLS // len(ordered)
        starts = starts[np.concatenate([[True], band[1:] != band[:-1]])]
    counts = np.diff(np.append(starts, len(ordered)))
    means = np.add.reduceat(ordered, starts) / counts
    variances = np.add.reduceat((ordered - np.repeat(means, counts)) ** 2, starts) / counts
    noise = iter(np.random.default_rng([seed, 1]).standard_normal(resamples))

    def figures(drawn: NDArray[np.int64]) -> tuple[Any, ...]:
        total = drawn @ means + np.sqrt(drawn @ variances) * next(noise)
        return (total / len(ordered),)

    return _resample(counts, figures, seed=seed, resamples=resamples)[0]


def difference_interval(only_first: int, only_second: int, rows: int, *, seed: int, resamples: int) -> Interval:
    """95 % interval of the difference of two accuracies on the same rows, by drawing pairs. Exact."""
    counts = np.array([only_first, only_second, rows - only_first - only_second])
    return _resample(counts, lambda drawn: ((drawn[0] - drawn[1]) / rows,), seed=seed, resamples=resamples)[0]


def _resample(
    counts: NDArray[np.int64],
    figures: Callable[[NDArray[np.int64]], tuple[Any, ...]],
    *,
    seed: int,
    resamples: int,
) -> list[Interval]:
    """The intervals of the figures of `resamples` draws of as many rows as `counts` [cells] has."""
    rows = int(counts.sum())
    shares = counts / rows
    rng = np.random.default_rng([seed, 0])
    drawn = np.array([figures(rng.multinomial(rows, shares)) for _ in range(resamples)])
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
