"""Figures of predictions: the same as scikit-learn's, and as slow versions of their formulas."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn import metrics

from tests.pipeline.evaluation.rows import (
    predictions,
    random_predictions,
    slow_calibration_error,
    slow_coverage_at,
)
from tirazh.pipeline.evaluation.evaluate import NO_CONFIDENCE, evaluate, evaluate_figures
from tirazh.pipeline.evaluation.predictions import (
    NO_PROBABILITIES,
    SOME_PROBABILITIES,
    Predictions,
    figures_of,
    join_figures,
)
from tirazh.pipeline.evaluation.ranking import BINS, adaptive_calibration_error, calibration_error, rank_rows


@given(predictions())
@settings(max_examples=60, deadline=None)
def test_labels_are_judged_as_in_scikit_learn(made: Predictions) -> None:
    found = evaluate(made, resamples=0)
    known = made.gold >= 0
    gold, chosen = made.gold[known], made.chosen[known]
    assert found.rows == known.sum()
    assert found.accuracy_abstained_wrong == pytest.approx(metrics.accuracy_score(gold, chosen))
    if found.answered:
        answered = chosen >= 0
        assert found.accuracy == pytest.approx(metrics.accuracy_score(gold[answered], chosen[answered]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        per_class = metrics.precision_recall_fscore_support(
            gold, chosen, labels=range(len(made.labels)), zero_division=np.nan
        )
        macro = metrics.f1_score(gold, chosen, labels=np.unique(gold), average="macro", zero_division=0)
        matrix = metrics.confusion_matrix(gold, chosen, labels=[*range(len(made.labels)), -1])
    assert found.macro_f1 == pytest.approx(macro)
    assert np.array_equal(found.confusion, matrix[:-1])
    for each, precision, recall, _, support in zip(found.classes, *per_class, strict=True):
        assert each.support == support
        assert each.precision == pytest.approx(None if np.isnan(precision) else precision)
        assert each.recall == pytest.approx(None if np.isnan(recall) else recall)


@given(predictions())
@settings(max_examples=60, deadline=None)
def test_confidences_are_judged_as_by_the_slow_formulas(made: Predictions) -> None:
    found = evaluate(made, resamples=0)
    known = made.gold >= 0
    assert made.probabilities is not None
    chances, gold = made.probabilities[known], made.gold[known]
    is_right = chances.argmax(axis=1) == gold
    assert found.ece == pytest.approx(slow_calibration_error(made.confidence[known], is_right))
    for name, error in (("coverage_at_5_percent", 0.05), ("coverage_at_1_percent", 0.01)):
        assert getattr(found, name) == pytest.approx(slow_coverage_at(made.confidence[known], is_right, error))
    one_hot = np.eye(len(made.labels))[gold]
    assert found.brier == pytest.approx(((chances - one_hot) ** 2).sum(axis=1).mean())


def test_losses_are_those_of_scikit_learn() -> None:
    made = random_predictions(500, 4, seed=1)
    found = evaluate(made, resamples=0)
    assert found.log_loss == pytest.approx(metrics.log_loss(made.gold, made.probabilities, labels=range(4)))
    brier = metrics.brier_score_loss(made.gold, made.probabilities, labels=range(4), scale_by_half=False)
    assert found.brier == pytest.approx(brier)


def test_a_gold_label_of_probability_zero_has_a_finite_log_loss() -> None:
    made = Predictions(
        labels=("a", "b"),
        gold=np.array([1]),
        chosen=np.array([0]),
        confidence=np.array([1.0]),
        probabilities=np.array([[1.0, 0.0]]),
    )
    assert evaluate(made, resamples=0).log_loss == pytest.approx(-np.log(np.finfo(float).eps))


def test_rows_that_abstain_count_for_calibration_and_coverage_at_an_error() -> None:
    """A threshold changes who is answered, not how good the probabilities are."""
    everyone = evaluate(random_predictions(300, 3, seed=2), resamples=0)
    some = evaluate(random_predictions(300, 3, seed=2, abstain_below=0.9), resamples=0)
    assert some.coverage < everyone.coverage == 1
    assert (some.ece, some.coverage_at_5_percent, some.brier) == (
        everyone.ece,
        everyone.coverage_at_5_percent,
        everyone.brier,
    )
    assert some.accuracy is not None
    assert everyone.accuracy is not None
    assert some.accuracy > everyone.accuracy > some.accuracy_abstained_wrong


def test_rows_of_equal_confidence_are_taken_together() -> None:
    made = Predictions(
        labels=("a", "b"),
        gold=np.array([0, 0, 0, 1]),
        chosen=np.zeros(4, np.int64),
        confidence=np.array([0.9, 0.8, 0.8, 0.8]),
    )
    assert evaluate(made, resamples=0).coverage_at_5_percent == 0.25


def test_labels_with_a_slash_have_an_accuracy_of_their_first_level() -> None:
    made = Predictions(
        labels=("sport/football", "sport/hockey", "economics"),
        gold=np.array([0, 0, 2, 2]),
        chosen=np.array([1, 0, 0, -1]),
        confidence=np.full(4, 0.5),
    )
    found = evaluate(made, resamples=0)
    assert found.accuracy == pytest.approx(1 / 3)
    assert found.first_level_accuracy == pytest.approx(2 / 3)
    assert evaluate(random_predictions(5, 2, seed=0), resamples=0).first_level_accuracy is None


def test_without_probabilities_losses_are_missing_and_say_why() -> None:
    full = random_predictions(50, 3, seed=3)
    made = Predictions(labels=full.labels, gold=full.gold, chosen=full.chosen, confidence=full.confidence)
    found = evaluate(made)
    assert found.missing == {"brier": NO_PROBABILITIES, "log_loss": NO_PROBABILITIES}
    assert found.ece == evaluate(full).ece
    without = Predictions(
        labels=full.labels, gold=full.gold, chosen=full.chosen, confidence=np.full(len(full.gold), np.nan)
    )
    found = evaluate(without)
    assert found.missing["ece"] == NO_CONFIDENCE
    assert found.accuracy == evaluate(full).accuracy
    assert "accuracy" in found.intervals
    assert "ece" not in found.intervals


def test_with_the_most_likely_labels_only_the_losses_are_missing() -> None:
    full = random_predictions(50, 3, seed=4, abstain_below=0.6)
    assert full.probabilities is not None
    top = np.where(full.probabilities == full.probabilities.max(axis=1, keepdims=True), full.probabilities, np.nan)
    found = evaluate(
        Predictions(
            labels=full.labels, gold=full.gold, chosen=full.chosen, confidence=full.confidence, probabilities=top
        )
    )
    assert found.missing == {"brier": SOME_PROBABILITIES, "log_loss": SOME_PROBABILITIES}
    assert found.coverage_at_5_percent == evaluate(full).coverage_at_5_percent


def test_the_figures_do_not_depend_on_the_order_or_the_batches_of_the_rows() -> None:
    made = random_predictions(400, 3, seed=5)
    assert made.probabilities is not None
    order = np.random.default_rng(0).permutation(400)
    batches = [
        figures_of(
            Predictions(
                labels=made.labels,
                gold=made.gold[rows],
                chosen=made.chosen[rows],
                confidence=made.confidence[rows],
                probabilities=made.probabilities[rows],
            )
        )
        for rows in np.split(order, [70, 300])
    ]
    whole, joined = evaluate(made).to_dict(), evaluate_figures(join_figures(batches)).to_dict()
    assert whole["classes"] == joined["classes"]
    assert whole["intervals"] == {name: pytest.approx(value) for name, value in joined["intervals"].items()}


def test_the_figures_are_json() -> None:
    found = evaluate(random_predictions(60, 3, seed=6, abstain_below=0.5))
    values = json.loads(json.dumps(found.to_dict()))
    assert values["accuracy"] == found.accuracy
    assert sum(rows for _, _, rows in values["confusion"]) == 60
    assert len(values["reliability"]) == BINS
    assert values["curve"][-1]["coverage"] == 1


def test_bins_of_equal_numbers_find_the_error_that_one_wide_bin_hides() -> None:
    confidence = np.concatenate([np.full(50, 0.95), np.full(50, 0.99)])
    is_right = np.arange(100) >= 3  # 47 of the first 50, all of the others
    ranked = rank_rows(confidence, is_right)
    assert calibration_error(ranked) == pytest.approx(abs(97 - 97) / 100)
    assert adaptive_calibration_error(ranked) == pytest.approx((abs(47 - 47.5) + abs(50 - 49.5)) / 100)


def test_wrong_shapes_and_rows_without_gold_are_refused() -> None:
    made = random_predictions(4, 2, seed=7)
    with pytest.raises(ValueError, match="no row has a gold label"):
        evaluate(Predictions(labels=made.labels, gold=np.full(4, -1), chosen=made.chosen, confidence=made.confidence))
    with pytest.raises(ValueError, match="one shape"):
        Predictions(labels=made.labels, gold=made.gold[:2], chosen=made.chosen, confidence=made.confidence)
    with pytest.raises(ValueError, match="indices of labels"):
        Predictions(labels=made.labels, gold=made.gold + 5, chosen=made.chosen, confidence=made.confidence)
