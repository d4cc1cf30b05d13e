"""Random predictions, with and without rows that abstain, and slow versions of the figures."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tirazh.pipeline.evaluation.predictions import Predictions


def random_predictions(
    rows: int, num_labels: int, *, seed: int, sharpness: float = 2.0, abstain_below: float = 0.0, decimals: int = 12
) -> Predictions:
    """Rows whose gold label is drawn from their own probabilities, so that they are calibrated."""
    rng = np.random.default_rng(seed)
    weights = np.exp(sharpness * rng.standard_normal((rows, num_labels)))
    chances = np.round(weights / weights.sum(axis=1, keepdims=True), decimals)
    chances[:, 0] += 1 - chances.sum(axis=1)
    gold = (rng.random((rows, 1)) > np.cumsum(chances, axis=1)).sum(axis=1).clip(max=num_labels - 1)
    confidence = chances.max(axis=1)
    chosen = np.where(confidence < abstain_below, -1, chances.argmax(axis=1))
    labels = tuple(f"label {number}" for number in range(num_labels))
    return Predictions(labels=labels, gold=gold, chosen=chosen, confidence=confidence, probabilities=chances)


@st.composite
def predictions(draw: st.DrawFn) -> Predictions:
    """A few rows, of which some abstain or have equal confidences, and at least one has a gold label."""
    num_labels, rows = draw(st.integers(2, 5)), draw(st.integers(1, 30))
    made = random_predictions(
        rows, num_labels, seed=draw(st.integers(0, 2**32)), abstain_below=draw(st.sampled_from([0.0, 0.5])), decimals=1
    )
    gold = np.array(draw(st.lists(st.integers(-1, num_labels - 1), min_size=rows, max_size=rows)))
    gold[0] = max(gold[0], 0)
    return Predictions(
        labels=made.labels,
        gold=gold,
        chosen=made.chosen,
        confidence=made.confidence,
        probabilities=made.probabilities,
    )


def slow_calibration_error(confidence: np.ndarray, is_right: np.ndarray) -> float:
    total = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        of_bin = [row for row, value in enumerate(confidence) if low < value <= high or (number == 0 and value <= 0)]
        if of_bin:
            total += len(of_bin) * abs(np.mean(is_right[of_bin]) - np.mean(confidence[of_bin]))
    return total / len(confidence)


def slow_coverage_at(confidence: np.ndarray, is_right: np.ndarray, error: float) -> float:
    best = 0
    for threshold in confidence:
        taken = confidence >= threshold
        if (~is_right[taken]).sum() <= error * taken.sum() + 1e-9:
            best = max(best, int(taken.sum()))
    return best / len(confidence)
