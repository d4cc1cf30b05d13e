"""A linear head: its probabilities, their independence of other rows, and its fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tirazh.pipeline.classification.head.fit import PENALTIES, fit_head
from tirazh.pipeline.classification.head.linear import LinearHead

CHANNELS = 24


def states(rows: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(1.0, 3.0, (rows, CHANNELS)).astype(np.float32)


def head(labels: int = 3) -> LinearHead:
    random = np.random.default_rng(1)
    names = tuple(f"label {index}" for index in range(labels))
    return LinearHead(names, random.normal(size=(labels, CHANNELS)), random.normal(size=labels))


def labelled(rows: int, labels: int) -> tuple[NDArray[np.float32], list[str]]:
    """States of which the label is a noisy linear function."""
    given_states = states(rows)
    random = np.random.default_rng(2)
    scores = given_states @ random.normal(size=(CHANNELS, labels)) + random.normal(0, 4, (rows, labels))
    return given_states, [f"label {index}" for index in scores.argmax(axis=1)]


def test_log_probabilities_are_a_log_softmax_of_linear_scores() -> None:
    fitted, given_states = head(), states(5)
    scores = given_states.astype(np.float64) @ fitted.weights_LC.T + fitted.bias_L
    expected = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    assert np.allclose(fitted.log_probabilities(given_states), expected, atol=1e-12)
    assert np.allclose(np.exp(fitted.log_probabilities(1_000 * given_states)).sum(axis=1), 1.0)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_a_row_has_the_same_bits_whatever_rows_are_beside_it(sizes: list[int]) -> None:
    fitted, given_states = head(), states(sum(sizes))
    whole = fitted.log_probabilities(given_states)
    parts = np.split(given_states, np.cumsum(sizes)[:-1])
    assert np.array_equal(np.concatenate([fitted.log_probabilities(part) for part in parts]), whole)


@pytest.mark.parametrize("labels", [2, 4])
def test_a_fit_is_that_of_scikit_learn_on_standardised_states(labels: int) -> None:
    given_states, targets = labelled(300, labels)
    names = [f"label {index}" for index in range(labels)]
    fitted = fit_head(given_states, targets, names)
    scaled = StandardScaler().fit_transform(given_states.astype(np.float64))
    model = LogisticRegression(C=fitted.facts["penalty_c"], max_iter=1_000).fit(scaled, targets)
    expected = model.predict_log_proba(scaled)[:, [list(model.classes_).index(name) for name in names]]
    assert np.abs(np.exp(fitted.log_probabilities(given_states)) - np.exp(expected)).max() < 1e-3
    assert fitted.facts["penalty_c"] in PENALTIES
    assert fitted.facts["examples"] == 300
    assert 1 / labels < fitted.facts["validated_accuracy"] < 1


def test_the_same_examples_and_seed_give_the_same_bits() -> None:
    given_states, targets = labelled(120, 3)
    names = ["label 0", "label 1", "label 2"]
    first, again = (fit_head(given_states, targets, names, seed=7) for _ in range(2))
    assert np.array_equal(first.weights_LC, again.weights_LC)
    assert first.facts == again.facts


def test_a_label_with_two_examples_is_enough() -> None:
    given_states = states(4)
    fitted = fit_head(given_states, ["a", "a", "b", "b"], ["a", "b"])
    assert fitted.facts["folds"] == 2
    assert np.isfinite(fitted.log_probabilities(given_states)).all()
