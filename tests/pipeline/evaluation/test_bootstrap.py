"""Intervals: equal to those of drawing rows one by one, and true in about 95 % of samples."""

from __future__ import annotations

import numpy as np
import pytest

from tests.pipeline.evaluation.rows import random_predictions, slow_calibration_error
from tirazh.pipeline.evaluation.bootstrap import MOST_CELLS, mean_interval
from tirazh.pipeline.evaluation.evaluate import Evaluation, evaluate
from tirazh.pipeline.evaluation.predictions import Predictions
from tirazh.pipeline.evaluation.ranking import rank_rows

NAMES = ("accuracy", "macro_f1", "ece", "brier", "log_loss", "coverage_at_5_percent")


def test_intervals_are_those_of_drawing_rows() -> None:
    made = _overconfident(random_predictions(300, 3, seed=1))
    rng = np.random.default_rng(5)
    drawn = []
    for _ in range(400):
        rows = rng.integers(0, 300, 300)
        found = evaluate(_rows(made, rows), resamples=0)
        drawn.append([getattr(found, name) for name in NAMES])
    low, high = np.quantile(np.array(drawn), [0.025, 0.975], axis=0)
    intervals = evaluate(made, resamples=2000).intervals
    assert set(NAMES) <= set(intervals)
    for name, least, most in zip(NAMES, low, high, strict=True):
        width = most - least
        assert intervals[name] == (pytest.approx(least, abs=0.25 * width), pytest.approx(most, abs=0.25 * width)), name


@pytest.mark.parametrize(
    ("runs", "rows", "allowed"),
    [(50, 400, (0.84, 1.0)), pytest.param(400, 1500, (0.91, 0.975), marks=pytest.mark.slow)],
)
def test_intervals_hold_the_truth_in_about_95_percent_of_samples(
    runs: int, rows: int, allowed: tuple[float, float]
) -> None:
    """Of a large ECE, too. Near 0 the ECE of a sample is above that of the population."""
    truth = evaluate(_overconfident(random_predictions(400_000, 4, seed=0)), resamples=0)
    held = dict.fromkeys(NAMES, 0)
    for seed in range(1, runs + 1):
        found = evaluate(_overconfident(random_predictions(rows, 4, seed=seed)), resamples=200, seed=seed)
        for name in NAMES:
            low, high = found.intervals[name]
            held[name] += low <= getattr(truth, name) <= high
    shares = {name: count / runs for name, count in held.items()}
    assert all(allowed[0] <= share <= allowed[1] for share in shares.values()), shares


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others() -> None:
    made = random_predictions(200, 3, seed=2)
    assert evaluate(made, seed=3).intervals == evaluate(made, seed=3).intervals
    assert evaluate(made, seed=3).intervals != evaluate(made, seed=4).intervals


def test_many_values_give_about_the_interval_of_their_standard_error() -> None:
    values = np.random.default_rng(0).exponential(size=20 * MOST_CELLS)
    low, high = mean_interval(values, seed=0, resamples=1000)
    error = values.std() / np.sqrt(len(values))
    assert (low, high) == (
        pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error),
        pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error),
    )


def test_merged_groups_keep_rows_bins_and_sums() -> None:
    rng = np.random.default_rng(1)
    confidence, is_right = rng.random(50_000), rng.random(50_000) < 0.5
    merged = rank_rows(confidence, is_right, most=200)
    assert len(merged.rows) <= 200 + 15
    assert merged.rows.sum() == 50_000
    assert merged.right.sum() == is_right.sum()
    gaps = np.bincount(merged.bin, weights=merged.right - merged.right_sum - merged.wrong_sum)
    assert np.abs(gaps).sum() / 50_000 == pytest.approx(slow_calibration_error(confidence, is_right))


def _overconfident(made: Predictions) -> Predictions:
    assert made.probabilities is not None
    weights = made.probabilities**2
    chances = weights / weights.sum(axis=1, keepdims=True)
    return Predictions(
        labels=made.labels,
        gold=made.gold,
        chosen=made.chosen,
        confidence=chances.max(axis=1),
        probabilities=chances,
    )


def _rows(made: Predictions, rows: np.ndarray) -> Predictions:
    assert made.probabilities is not None
    return Predictions(
        labels=made.labels,
        gold=made.gold[rows],
        chosen=made.chosen[rows],
        confidence=made.confidence[rows],
        probabilities=made.probabilities[rows],
    )


def test_an_evaluation_without_resamples_has_no_intervals() -> None:
    found: Evaluation = evaluate(random_predictions(20, 2, seed=3), resamples=0)
    assert found.intervals == {}
