"""Probabilities from scores, and labels, levels and confidences from probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.pipeline.classification.decide import choose_several, decide, softmax
from tirazh.pipeline.classification.levels import Levels

scores = st.lists(st.lists(st.floats(-1_000, 0), min_size=3, max_size=3), min_size=1, max_size=5).map(
    lambda rows: np.array(rows)
)
# Few different values, so that equal probabilities and sums that hit a threshold occur.
chances = st.lists(
    st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.5, 1.0]), min_size=6, max_size=6), min_size=1, max_size=4
).map(lambda rows: np.array(rows, np.float32))
NAMES = ("sport/football", "sport/hockey/nhl", "sport/hockey/khl", "economics", "art/film", "none")


def probable(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_probabilities_are_the_softmax_over_the_labels() -> None:
    assert softmax(np.log([[0.02, 0.06]]))[0] == pytest.approx([0.25, 0.75])


def test_a_row_below_the_threshold_has_a_confidence_but_no_label() -> None:
    decided = decide(probable([0.4, 0.6], [0.1, 0.9]), threshold=0.7)
    assert decided.chosen.tolist() == [-1, 1]
    assert decided.confidence == pytest.approx([0.6, 0.9])


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.1, 1 / 3])
def test_a_probability_that_is_equal_to_the_threshold_reaches_it(threshold: float) -> None:
    assert decide(probable([threshold, 0.0]), threshold=threshold).chosen.tolist() == [0]


def test_the_first_of_equally_likely_labels_wins() -> None:
    assert decide(probable([0.2, 0.4, 0.4])).chosen.tolist() == [1]


def test_a_row_whose_most_likely_label_is_the_none_label_abstains() -> None:
    decided = decide(probable([0.2, 0.8], [0.6, 0.4]), none_index=1)
    assert decided.chosen.tolist() == [-1, 0]
    assert decided.confidence == pytest.approx([0.8, 0.6])


def test_a_row_gets_the_nearest_level_that_reaches_the_threshold() -> None:
    levels = Levels.of(NAMES)
    assert levels is not None
    assert levels.names == ("sport", "sport/hockey"), "a level has at least two labels below it"
    rows = probable([0.2, 0.3, 0.25, 0.25, 0, 0], [0.45, 0.3, 0.1, 0.15, 0, 0], [0.2, 0.2, 0, 0.35, 0.25, 0])
    decided = decide(rows, threshold=0.5, levels=levels)
    assert decided.chosen.tolist() == [6 + 1, 6 + 0, -1]
    assert decided.confidence == pytest.approx([0.55, 0.85, 0.35])


@given(scores)
def test_probabilities_sum_to_one_for_very_small_likelihoods(logprobs: np.ndarray) -> None:
    probabilities = softmax(logprobs)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(len(logprobs)))
    best = np.take_along_axis(probabilities, logprobs.argmax(axis=1)[:, None], axis=1)
    assert np.array_equal(best[:, 0], probabilities.max(axis=1))


@given(scores, st.floats(-100, 100))
def test_adding_a_constant_to_all_labels_changes_nothing(logprobs: np.ndarray, constant: float) -> None:
    assert softmax(logprobs + constant) == pytest.approx(softmax(logprobs), abs=1e-9)


def slow_decision(row: list[float], threshold: float, none_index: int | None) -> tuple[str | None, float]:
    """The decision for one row, step by step as the documentation says it."""
    best = row.index(max(row))
    if best == none_index:
        return None, row[best]
    if row[best] >= np.float32(threshold):
        return NAMES[best], row[best]
    level = NAMES[best].rpartition("/")[0]
    while level:
        below = [chance for name, chance in zip(NAMES, row, strict=True) if name.startswith(level + "/")]
        together = np.float32(min(math.fsum(below), 1.0))
        if together >= np.float32(threshold):
            return level, float(together)
        level = level.rpartition("/")[0]
    return None, row[best]


@given(chances, st.sampled_from([0.0, 0.2, 0.3, 0.5, 0.75, 1.0]), st.sampled_from([None, 5]))
def test_the_decision_is_that_of_a_slow_version(rows: np.ndarray, threshold: float, none_index: int | None) -> None:
    levels = Levels.of(NAMES)
    assert levels is not None
    decided = decide(rows, threshold=threshold, none_index=none_index, levels=levels)
    names = [*NAMES, *levels.names]
    found = [
        (None if index < 0 else names[index], float(confidence))
        for index, confidence in zip(decided.chosen, decided.confidence, strict=True)
    ]
    assert found == [slow_decision([float(each) for each in row], threshold, none_index) for row in rows]


@given(chances, st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.sampled_from([None, 5]))
def test_several_labels_are_those_that_are_likely_enough(
    rows: np.ndarray, least: float, none_index: int | None
) -> None:
    chosen = choose_several(rows, least=least, none_index=none_index)
    for row, flags in zip(rows.tolist(), chosen.tolist(), strict=True):
        for index, (chance, flag) in enumerate(zip(row, flags, strict=True)):
            if none_index is None:
                assert flag == (np.float32(chance) >= np.float32(least))
                continue
            both = chance + row[none_index]
            against = chance / both if both else 0.0
            assert flag == (index != none_index and np.float32(against) >= np.float32(least))
