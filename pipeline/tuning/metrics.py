"""The figures by which trials are compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tirazh.pipeline.evaluation.confusion import confusion_matrix, macro_f1
from tirazh.pipeline.evaluation.predictions import Predictions
from tirazh.pipeline.tuning.settings import Metric

Scores = NDArray[np.float64]


def predictions_of(scores_NL: Scores, gold_N: NDArray[np.int64], labels: tuple[str, ...]) -> Predictions:
    """Apply softmax to label scores [N, L], natural logarithms. A row of NaN could not be run, and has no answer."""
    is_run = ~np.isnan(scores_NL).any(axis=1)
    known = scores_NL[is_run]
    weights = np.exp(known - known.max(axis=1, keepdims=True)) if len(known) else known
    chances = np.full(scores_NL.shape, np.nan)
    chances[is_run] = weights / weights.sum(axis=1, keepdims=True)
    chosen = np.full(len(gold_N), -1, np.int64)
    chosen[is_run] = known.argmax(axis=1) if len(known) else 0
    confidence = np.full(len(gold_N), np.nan)
    confidence[is_run] = chances[is_run].max(axis=1) if len(known) else 0.0
    return Predictions(labels=labels, gold=gold_N, chosen=chosen, confidence=confidence, probabilities=chances)


def value_of(metric: Metric, scores_NL: Scores, gold_N: NDArray[np.int64]) -> float:
    """The figure of trials on N rows with label scores [N, L], as a number of which a higher one is better.

    A row that could not be run counts as wrong.
    """
    labels = tuple(str(index) for index in range(scores_NL.shape[1]))
    found = predictions_of(scores_NL, gold_N, labels)
    if metric == "accuracy":
        return float((found.chosen == gold_N).mean())
    if metric == "macro_f1":
        return macro_f1(confusion_matrix(gold_N, found.chosen, len(labels)))
    return -float(log_losses(found).mean())


def log_losses(found: Predictions) -> NDArray[np.float64]:
    """The log-loss of every row in nats, float64 [N]. A row that could not be run counts as one whose gold label has
    the probability 2.2e-16, the smallest that counts."""
    assert found.probabilities is not None, "made by `predictions_of`"
    of_gold = np.nan_to_num(found.probabilities[np.arange(len(found.gold)), found.gold])
    return -np.log(np.maximum(of_gold, np.finfo(np.float64).eps))
