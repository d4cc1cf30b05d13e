"""The threshold for a target error: its guarantee by simulation, and what a sample cannot support."""

from __future__ import annotations

import numpy as np
import pytest

from tests.pipeline.classification.calibration.samples import draw
from tirazh.errors import RequestError
from tirazh.pipeline.classification.calibration.calibration import fit_calibration
from tirazh.pipeline.classification.calibration.error_bound import DELTA, rows_needed, threshold_for, upper_bound


def _rows(rows: int, seed: int, *, power: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and answers that are right with a probability of `confidence ** (1 / power)`."""
    random = np.random.default_rng(seed)
    confidence = random.beta(3.0, 1.0, size=rows)
    return confidence, random.random(rows) < confidence ** (1 / power)


@pytest.mark.parametrize(("rows", "target"), [(200, 0.1), (500, 0.1), (500, 0.05), (2000, 0.03)])
def test_at_least_the_promised_share_of_samples_keeps_the_target(rows: int, target: float) -> None:
    confidence, correct = _rows(400_000, 10**6)
    kept, answered = 0, []
    for seed in range(200):
        try:
            threshold = threshold_for(*_rows(rows, seed), target)
        except RequestError:
            kept += 1  # nothing is answered
            continue
        taken = confidence >= threshold
        kept += (~correct[taken]).mean() <= target
        answered.append(taken.mean())
    assert kept >= 200 * (1 - DELTA)
    assert len(answered) > 100
    assert np.mean(answered) > 0.2


def test_the_guarantee_holds_for_equal_confidences() -> None:
    correct = np.array([True] * 95 + [False] * 5)
    assert threshold_for(np.full(100, 0.7), correct, 0.2) == 0.0
    with pytest.raises(RequestError, match="cannot be promised"):
        threshold_for(np.full(100, 0.7), correct, 0.06)


def test_out_of_fold_confidences_keep_the_target_with_a_fitted_calibration() -> None:
    scores, gold = draw(60_000, 4, seed=10**6)
    kept = 0
    for seed in range(40):
        calibration = fit_calibration(*draw(300, 4, seed=seed), tuple("abcd"), method="temperature").calibration
        try:
            threshold = calibration.threshold(0.15)
        except RequestError:
            kept += 1
            continue
        after = calibration.apply(scores)
        taken = after.max(axis=1) >= threshold
        kept += (after.argmax(axis=1) != gold)[taken].mean() <= 0.15
    assert kept >= 40 * (1 - DELTA)


def test_a_sample_of_right_answers_supports_a_target_from_the_rows_it_needs() -> None:
    needed = rows_needed(0.05)
    assert upper_bound(0, needed, DELTA / 4) <= 0.05 < upper_bound(0, needed - 1, DELTA / 4)
    right = np.ones(100, bool)
    assert threshold_for(np.linspace(0.5, 1.0, 100), right, 0.05) == 0.0


@pytest.mark.parametrize(
    ("rows", "target", "sentence"),
    [
        (30, 0.05, "needs at least 72 answered rows without a mistake, but the labelled sample has 30 rows"),
        (30, 0.0, "needs a target above 0, but the labelled sample has 30 rows"),
    ],
)
def test_a_sample_that_is_too_small_is_refused_with_what_would_do(rows: int, target: float, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence) as refused:
        threshold_for(np.linspace(0.5, 1.0, rows), np.ones(rows, bool), target)
    supported = float(str(refused.value).rsplit("supports is ", 1)[1])
    assert threshold_for(np.linspace(0.5, 1.0, rows), np.ones(rows, bool), supported) == 0.0


def test_a_model_that_is_wrong_too_often_is_refused_with_the_target_that_it_supports() -> None:
    confidence, correct = _rows(500, 0, power=1.0)
    with pytest.raises(RequestError, match="is wrong too often even where it is most confident") as refused:
        threshold_for(confidence, correct, 0.01)
    supported = float(str(refused.value).rsplit("supports is ", 1)[1])
    assert threshold_for(confidence, correct, supported) > 0.0
    with pytest.raises(RequestError):
        threshold_for(confidence, correct, supported - 0.002)
