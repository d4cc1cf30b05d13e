"""Labels, confidence and probabilities from log-likelihoods."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.pipeline.classification.decide import calibrate, decide

scores = st.lists(st.lists(st.floats(-1_000, 0), min_size=3, max_size=3), min_size=1, max_size=5).map(
    lambda rows: np.array(rows)
)


def test_probabilities_are_the_softmax_over_the_labels() -> None:
    decided = decide(np.log([[0.02, 0.06]]), abstain_below=0.0)
    assert decided.probabilities[0] == pytest.approx([0.25, 0.75])
    assert decided.chosen.tolist() == [1]
    assert decided.confidence[0] == pytest.approx(0.75)


def test_a_row_below_the_threshold_has_a_confidence_but_no_label() -> None:
    decided = decide(np.log([[0.4, 0.6], [0.1, 0.9]]), abstain_below=0.7)
    assert decided.chosen.tolist() == [-1, 1]
    assert decided.confidence == pytest.approx([0.6, 0.9])


def test_a_label_with_a_probability_equal_to_the_threshold_is_kept() -> None:
    assert decide(np.log([[0.5, 0.5]]), abstain_below=0.5).chosen.tolist() == [0]


def test_contextual_calibration_removes_the_bias_towards_a_label() -> None:
    priors = [math.log(0.9), math.log(0.1)]
    calibrated = calibrate([math.log(0.8), math.log(0.2)], priors)
    decided = decide(np.array([calibrated]), abstain_below=0.0)
    assert decided.chosen.tolist() == [1]
    assert calibrate(priors, priors) == pytest.approx([0, 0])


@given(scores)
def test_probabilities_sum_to_one_for_very_small_likelihoods(logprobs: np.ndarray) -> None:
    decided = decide(logprobs, abstain_below=0.0)
    assert decided.probabilities.sum(axis=1) == pytest.approx(np.ones(len(logprobs)))
    assert np.array_equal(decided.chosen, logprobs.argmax(axis=1))


@given(scores, st.floats(-100, 100))
def test_adding_a_constant_to_all_labels_changes_nothing(logprobs: np.ndarray, constant: float) -> None:
    before, after = decide(logprobs, abstain_below=0.0), decide(logprobs + constant, abstain_below=0.0)
    assert after.probabilities == pytest.approx(before.probabilities, abs=1e-9)
