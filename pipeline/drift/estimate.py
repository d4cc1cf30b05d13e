"""The accuracy that the confidences promise, without gold labels.

If a confidence is the probability that the label is right, as that of calibrated probabilities, the mean confidence of
the answered rows is their expected accuracy, and that of the rows with a label its expected precision. This is the
idea of NannyML's confidence-based performance estimation for the most likely label.
"""

from __future__ import annotations

import math
from typing import Any

from tirazh.pipeline.drift.counts import AnswerCounts, Moments

_Z = 1.959963984540054  # the 97.5th percentile of the normal distribution
_FEW_GOLD = 30


def estimate(confidences: Moments) -> tuple[float, float, float] | None:
    """The expected accuracy of rows with these confidences, and the 95 % interval of the accuracy; None without rows.

    The number of right rows is a sum of independent draws with these probabilities; its normal approximation has the
    variance sum p(1 - p).
    """
    mean = confidences.mean
    if mean is None:
        return None
    half = _Z * math.sqrt(max(0.0, confidences.variance)) / confidences.rows
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def estimated_difference(first: Moments, second: Moments) -> tuple[float, float, float] | None:
    """The expected difference of two accuracies, first minus second, and its 95 % interval; None without rows."""
    here, there = first.mean, second.mean
    if here is None or there is None:
        return None
    half = _Z * math.sqrt(max(0.0, first.variance) / first.rows**2 + max(0.0, second.variance) / second.rows**2)
    return here - there, here - there - half, here - there + half


def gold_gap(counts: AnswerCounts) -> dict[str, Any] | None:
    """How far the estimate is from the truth on the answered rows with a gold label; None without any.

    `gap` is the estimate minus the measured accuracy. `is_beyond_chance` says whether calibrated confidences would be
    so far from the measured accuracy in less than 5 % of the samples; with less than 30 rows it is false.
    """
    rows = counts.gold_answers.rows
    found = estimate(counts.gold_answers)
    if found is None:
        return None
    estimated, low, high = found
    measured = counts.gold_right / rows
    return {
        "rows": rows,
        "estimated": estimated,
        "measured": measured,
        "gap": estimated - measured,
        "is_beyond_chance": rows >= _FEW_GOLD and not low <= measured <= high,
    }
