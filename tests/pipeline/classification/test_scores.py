"""From the engine's scores to the log-probabilities of labels: aliases, scoring, priors and orders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tirazh.pipeline.classification.scores import (
    Corrections,
    LabelLayout,
    label_logprobs,
    label_priors,
    normalise,
    score_candidates,
)

# Two questions: of three labels, the second with an alias, and of two labels. The last two candidates are the texts of
# the first and the third.
LAYOUT = LabelLayout(entries=(0, 1, 2, 3, 0, 2), owners=(0, 1, 1, 2, 3, 4), lengths=(1, 2, 4, 1, 1, 4), sizes=(3, 2))
scores_of_rows = arrays.arrays(np.float64, (5, 4), elements=st.floats(-300, 0))


def probabilities(logprobs: Any) -> Any:
    return np.exp(normalise(np.asarray(logprobs), LAYOUT))


def test_the_probabilities_of_a_label_s_words_and_aliases_add_up() -> None:
    chances = np.array([[0.1, 0.2, 0.3, 0.4]])
    assert np.exp(label_logprobs([np.log(chances)], LAYOUT)) == pytest.approx(np.array([[0.1, 0.5, 0.4, 0.1, 0.3]]))


@given(scores_of_rows)
def test_the_sum_of_a_label_without_aliases_keeps_its_bits(scores_NE: Any) -> None:
    plain = LabelLayout(entries=(0, 1, 2, 3), owners=(0, 1, 2, 3), lengths=(1, 2, 4, 1), sizes=(4,))
    assert (label_logprobs([scores_NE], plain) == scores_NE).all()


def test_mean_divides_by_the_number_of_tokens_of_each_candidate() -> None:
    layout = replace(LAYOUT, scoring="mean")
    assert score_candidates(np.array([[-1.0, -2.0, -8.0, -3.0]]), layout).tolist() == [[-1, -1, -2, -3, -1, -2]]


def test_pmi_subtracts_the_score_after_the_premise() -> None:
    layout, premise = replace(LAYOUT, scoring="pmi"), np.array([-1.0, -4.0, -2.0, -9.0])
    scored = score_candidates(np.array([[-1.0, -2.0, -8.0, -3.0]]), layout, premise)
    assert scored.tolist() == [[0, 2, -6, 6, 0, -6]]
    with pytest.raises(ValueError, match="premise"):
        score_candidates(np.zeros((1, 4)), layout)


@given(scores_of_rows, st.sampled_from(["sum", "mean", "pmi"]))
def test_a_text_that_calibrates_alone_gets_equal_probabilities_for_all_labels(scores_NE: Any, scoring: Any) -> None:
    layout, premise = replace(LAYOUT, scoring=scoring), np.array([-1.0, -4.0, -2.0, -9.0])
    text = scores_NE[:1]
    priors = label_priors([text], layout, premise)
    after = label_logprobs([text], layout, Corrections(premise, priors))
    assert probabilities(after) == pytest.approx(np.array([[1 / 3] * 3 + [1 / 2] * 2]))


@given(scores_of_rows)
def test_the_prior_is_the_mean_of_the_probabilities(scores_ME: Any) -> None:
    (prior,) = label_priors([scores_ME], LAYOUT)
    assert np.exp(prior) == pytest.approx(probabilities(label_logprobs([scores_ME], LAYOUT)).mean(axis=0), abs=1e-12)


@given(scores_of_rows, scores_of_rows)
def test_several_orders_give_the_mean_of_their_probabilities(first: Any, second: Any) -> None:
    priors = label_priors([first, second], LAYOUT)
    both = label_logprobs([first, second], replace(LAYOUT, orders=2), Corrections(None, priors))
    alone = [
        probabilities(label_logprobs([scores], LAYOUT, Corrections(None, priors[order : order + 1])))
        for order, scores in enumerate((first, second))
    ]
    assert np.exp(both) == pytest.approx((alone[0] + alone[1]) / 2, abs=1e-12)


@given(scores_of_rows, st.integers(0, 4))
def test_the_scores_of_a_row_do_not_depend_on_the_other_rows(scores_NE: Any, row: int) -> None:
    layout = replace(LAYOUT, scoring="mean", orders=2)
    all_rows = label_logprobs([scores_NE, scores_NE[::-1]], layout)
    alone = label_logprobs([scores_NE[row : row + 1], scores_NE[::-1][row : row + 1]], layout)
    assert (all_rows[row] == alone[0]).all()
