"""Figures of the confidence: calibration error, and how many rows can be answered at an error rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15
_CURVE_POINTS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliabilityBin:
    """The rows whose confidence is above `low` and at most `high`; the first bin also holds a confidence of 0.

    `confidence` is their mean confidence, `accuracy` the share that is right; None without rows.
    """

    low: float
    high: float
    rows: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """Answering only rows of at least `confidence` answers a share `coverage`, and a share `error` of it wrongly."""

    confidence: float
    coverage: float
    error: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RankedRows:
    """Rows in groups of equal confidence, the highest first; with more than `most` groups neighbours are merged.

    `confidence` is the lowest one of a group, float64 [G], `bin` its bin of equal width, int64 [G]. `rows` and
    `right` are int64 [G]; `right_sum` and `wrong_sum` are sums of the confidence of right and wrong rows, float64 [G].
    """

    confidence: NDArray[np.float64]
    bin: NDArray[np.int64]
    rows: NDArray[np.int64]
    right: NDArray[np.int64]
    right_sum: NDArray[np.float64]
    wrong_sum: NDArray[np.float64]


def bin_of(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of equal width of each confidence, (0, 1/15], (1/15, 2/15], …, int64, as in Guo et al. 2017."""
    bins: NDArray[np.int64] = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return bins


def rank_rows(confidence: NDArray[np.float64], is_right: NDArray[np.bool_], *, most: int | None = None) -> RankedRows:
    """Group the rows by their confidence. `most` bounds the number of groups, up to those that a bin's end adds."""
    order = np.lexsort((is_right, -confidence))
    ranked, right = confidence[order], is_right[order]
    starts = _starts(ranked[1:] != ranked[:-1])
    if most is not None and len(starts) > most:
        # Merged by rank, and never over the end of a bin.
        band = starts * most // len(ranked)
        bins = bin_of(ranked[starts])
        starts = starts[_starts((band[1:] != band[:-1]) | (bins[1:] != bins[:-1]))]
    ends = np.append(starts[1:], len(ranked)) - 1
    return RankedRows(
        confidence=ranked[ends],
        bin=bin_of(ranked[ends]),
        rows=ends + 1 - starts,
        right=np.add.reduceat(right.astype(np.int64), starts),
        right_sum=np.add.reduceat(np.where(right, ranked, 0.0), starts),
        wrong_sum=np.add.reduceat(np.where(right, 0.0, ranked), starts),
    )


def reliability(ranked: RankedRows) -> tuple[ReliabilityBin, ...]:
    """The 15 bins of equal width that the calibration error is computed from."""
    rows = np.bincount(ranked.bin, weights=ranked.rows, minlength=BINS)
    right = np.bincount(ranked.bin, weights=ranked.right, minlength=BINS)
    sums = np.bincount(ranked.bin, weights=ranked.right_sum + ranked.wrong_sum, minlength=BINS)
    return tuple(
        ReliabilityBin(
            low=each / BINS,
            high=(each + 1) / BINS,
            rows=int(rows[each]),
            confidence=float(sums[each] / rows[each]) if rows[each] else None,
            accuracy=float(right[each] / rows[each]) if rows[each] else None,
        )
        for each in range(BINS)
    )


def calibration_error(ranked: RankedRows) -> float:
    """Expected calibration error (Naeini et al. 2015, Guo et al. 2017).

    It is the mean over the rows of |accuracy - mean confidence| of their bin.
    """
    return _calibration_error(ranked.bin, BINS, ranked)


def adaptive_calibration_error(ranked: RankedRows) -> float:
    """The same over 15 bins of about equal numbers of rows (Nguyen and O'Connor 2015).

    Rows of equal confidence are in one bin.
    """
    middle = np.cumsum(ranked.rows) - ranked.rows / 2
    bins = np.minimum((middle * BINS / ranked.rows.sum()).astype(np.int64), BINS - 1)
    return _calibration_error(bins, BINS, ranked)


def coverage_at(ranked: RankedRows, error: float) -> float:
    """The largest share of rows, taken by falling confidence, of which at most a share `error` is wrong.

    Rows of equal confidence are taken together.
    """
    taken = np.cumsum(ranked.rows)
    return most_taken(taken, taken - np.cumsum(ranked.right), error) / float(taken[-1])


def most_taken(taken: NDArray[np.int64], wrong: NDArray[np.int64], error: float) -> int:
    """The largest number of rows taken, in rising order, of which at most a share `error` is wrong."""
    # The tolerance is for shares such as 0.05, which are no exact floating-point numbers.
    return int(taken[wrong <= error * taken * (1 + 1e-12)].max(initial=0))


def coverage_curve(ranked: RankedRows) -> tuple[CurvePoint, ...]:
    """At most 100 points of coverage and error, from the highest confidence down, the last with all rows."""
    taken = np.cumsum(ranked.rows)
    wrong = taken - np.cumsum(ranked.right)
    wanted = np.ceil(np.arange(1, _CURVE_POINTS + 1) * taken[-1] / _CURVE_POINTS)
    points = np.unique(np.searchsorted(taken, wanted))
    return tuple(
        CurvePoint(
            confidence=float(ranked.confidence[each]),
            coverage=float(taken[each] / taken[-1]),
            error=float(wrong[each] / taken[each]),
        )
        for each in points
    )


def _calibration_error(bins: NDArray[np.int64], count: int, ranked: RankedRows) -> float:
    gaps = np.bincount(bins, weights=ranked.right - ranked.right_sum - ranked.wrong_sum, minlength=count)
    return float(np.abs(gaps).sum() / ranked.rows.sum())


def _starts(is_new: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The index 0, and those after which `is_new` is true."""
    return np.concatenate([[0], np.flatnonzero(is_new) + 1]).astype(np.int64)
