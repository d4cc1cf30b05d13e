"""Comparing two runs over the same rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.pipeline.evaluation.rows import random_predictions
from tirazh.pipeline.evaluation.compare import compare, mcnemar
from tirazh.pipeline.evaluation.predictions import Predictions


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_p_value_is_that_of_the_binomial_or_the_chi_square_test(first: int, second: int) -> None:
    p_value, test = mcnemar(first, second)
    if first + second < 25:
        expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
        assert test == "exact"
    else:
        expected = stats.chi2.sf(max(0, abs(first - second) - 1) ** 2 / (first + second), 1)
        assert test == "chi-square"
    assert p_value == pytest.approx(expected)


def test_a_better_run_has_a_positive_difference_and_a_small_p_value() -> None:
    first, second = _run([0] * 90 + [1] * 10), _run([0] * 60 + [1] * 40)
    found = compare(first, second)
    assert found.difference == pytest.approx(0.3)
    assert (found.first_accuracy, found.second_accuracy) == (0.9, 0.6)
    assert (found.only_first_right, found.only_second_right, found.changed) == (30, 0, 30)
    assert found.p_value < 1e-5
    assert found.interval is not None
    assert 0.2 < found.interval[0] < 0.3 < found.interval[1] < 0.4


def test_a_run_against_itself_has_no_difference() -> None:
    run = random_predictions(50, 3, seed=0, abstain_below=0.5)
    found = compare(run, run)
    assert (found.difference, found.interval, found.p_value, found.changed) == (0, (0, 0), 1, 0)


def test_labels_are_compared_by_their_names() -> None:
    first = Predictions(
        labels=("a", "b"), gold=np.array([0, 1, -1]), chosen=np.array([0, 0, 1]), confidence=np.full(3, np.nan)
    )
    second = Predictions(
        labels=("new", "b", "a"), gold=np.full(3, -1), chosen=np.array([2, 1, 0]), confidence=np.full(3, np.nan)
    )
    found = compare(first, second)
    assert (found.rows, found.only_first_right, found.only_second_right, found.changed) == (2, 0, 1, 2)


def test_intervals_of_a_difference_hold_the_truth_in_about_95_percent_of_samples() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(300):
        # The first run is right in 80 % of the rows, the second in 70 %; together they are right more often.
        pairs = rng.choice(4, 400, p=[0.65, 0.15, 0.05, 0.15])
        first = _run(np.where(np.isin(pairs, [0, 1]), 0, 1))
        second = _run(np.where(np.isin(pairs, [0, 2]), 0, 1))
        interval = compare(first, second, seed=seed, resamples=300).interval
        assert interval is not None
        held += interval[0] <= 0.1 <= interval[1]
    assert 0.9 <= held / 300 <= 0.99


def test_runs_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="different numbers of rows, 2 and 3"):
        compare(_run([0, 0]), _run([0, 0, 1]))


def _run(chosen: object) -> Predictions:
    """Answers to rows whose gold label is the first."""
    answers = np.array(chosen, np.int64)
    return Predictions(
        labels=("a", "b"),
        gold=np.zeros(len(answers), np.int64),
        chosen=answers,
        confidence=np.full(len(answers), np.nan),
    )
