"""The confidence threshold for a target error: selective prediction with a guarantee from labelled rows.

A row is answered if its confidence is at least the threshold; the selective error is the share of wrong labels among
answered rows. The bound of the selective error is that of Clopper and Pearson, as in Geifman & El-Yaniv, "Selective
classification for deep neural networks" (2017). Their search tests log2(N) thresholds and divides delta by their
number. Here thresholds are tested in fixed sequences (Angelopoulos et al., "Learn then test", 2021): a sequence goes
from few answered rows to many, and ends at the first threshold that fails, so that it costs one test.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tirazh.errors import RequestError
from tirazh.pipeline.classification.calibration.transforms import Floats

# The guarantee may fail for this share of samples.
DELTA = 0.1
# Each sequence starts where this share of the rows is answered, and takes `_STEP` more each time.
_STARTS = (0.1, 0.25, 0.5, 0.75)
_STEP = 0.05


def threshold_for(
    confidence_N: Floats, correct_N: NDArray[np.bool_], target_error: float, *, delta: float = DELTA
) -> float:
    """The smallest confidence threshold whose selective error is at most `target_error`, with confidence 1 - `delta`.

    The guarantee: if the sample and the rows of a job are drawn alike and independently, then for at least
    1 - `delta` of all samples the share of wrong labels among the job's answered rows is expected to be at most
    `target_error`. `confidence_N` must not come from a calibration that was fitted on the same rows.
    Raises RequestError if the sample cannot support the target; the message says which one it can.
    """
    level = delta / len(_STARTS)
    if not len(confidence_N):
        raise RequestError("--target-error needs labelled rows that are answered, but the sample has none")
    tested = _thresholds(confidence_N)
    passed = [
        threshold
        for start in _STARTS
        for threshold in _sequence(start, tested, confidence_N, correct_N, target_error, level)
    ]
    if not passed:
        raise RequestError(_reason(confidence_N, correct_N, target_error, level, tested))
    return min(passed)


def upper_bound(wrong: int, rows: int, level: float) -> float:
    """The Clopper-Pearson upper bound of an error rate, with confidence 1 - `level`; 1 without rows."""
    from scipy.stats import beta

    return 1.0 if wrong >= rows else float(beta.ppf(1.0 - level, wrong + 1, rows - wrong))


def rows_needed(target_error: float, *, delta: float = DELTA) -> int:
    """The fewest answered rows, all of them right, that support a target error."""
    if target_error >= 1.0:
        return 1
    return math.ceil(math.log(delta / len(_STARTS)) / math.log1p(-target_error)) if target_error > 0.0 else 0


def _thresholds(confidence_N: Floats) -> list[tuple[float, float]]:
    """(share of rows answered, threshold) in steps, from few rows to all; the last threshold is 0.

    A threshold lies between the last answered row and the first one that is not: given the latter, the
    answered rows are independent draws from those above it.
    """
    falling = np.sort(confidence_N)[::-1]
    rows = len(falling)
    found = []
    for step in range(1, round(1 / _STEP)):
        count = math.ceil(step * _STEP * rows)
        if count < rows and falling[count - 1] > falling[count]:
            found.append((step * _STEP, float((falling[count - 1] + falling[count]) / 2)))
        elif count < rows:  # equal confidences are answered or not together
            above = falling[falling > falling[count]]
            if len(above):
                found.append((step * _STEP, float((above[-1] + falling[count]) / 2)))
    return [*found, (1.0, 0.0)]


def _sequence(
    start: float,
    tested: list[tuple[float, float]],
    confidence_N: Floats,
    correct_N: NDArray[np.bool_],
    target_error: float,
    level: float,
) -> list[float]:
    passed = []
    for share, threshold in tested:
        if share < start - 1e-9:
            continue
        wrong, answered = _count(confidence_N, correct_N, threshold)
        if upper_bound(wrong, answered, level) > target_error:
            break
        passed.append(threshold)
    return passed


def _count(confidence_N: Floats, correct_N: NDArray[np.bool_], threshold: float) -> tuple[int, int]:
    """(wrong, answered) rows at a threshold."""
    answered = confidence_N >= threshold
    return int((answered & ~correct_N).sum()), int(answered.sum())


def _reason(
    confidence_N: Floats,
    correct_N: NDArray[np.bool_],
    target_error: float,
    level: float,
    tested: list[tuple[float, float]],
) -> str:
    rows = len(confidence_N)
    firsts = [next(threshold for share, threshold in tested if share >= start - 1e-9) for start in _STARTS]
    possible = min(upper_bound(*_count(confidence_N, correct_N, threshold), level) for threshold in firsts)
    supported = math.ceil(possible * 1000) / 1000
    most = f"the smallest target that it supports is {supported:g}"
    needed = rows_needed(target_error)
    if needed > _STARTS[-1] * rows or not needed:
        wanted = f"at least {needed} answered rows without a mistake" if needed else "a target above 0"
        return f"--target-error {target_error:g} needs {wanted}, but the labelled sample has {rows} rows; {most}"
    return (
        f"--target-error {target_error:g} cannot be promised from the labelled sample of {rows} rows: the model is "
        f"wrong too often even where it is most confident; {most}"
    )
