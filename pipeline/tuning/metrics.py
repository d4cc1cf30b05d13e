"""The figures by which trials are compared."""

from __future__ import annotations

from collections.abc import Sequence

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


def choose_variant(variants: Sequence[Scores], gold_N: NDArray[np.int64], metric: Metric) -> int:
    """Choose between variants of one prompt setting, each with scores [N, L] of the same rows; return its index.

    Accuracies on some hundred rows differ by chance. So of the variants whose accuracy is within one standard error (of
    the mean of the paired differences) of that of the best one by the metric, the one with the lowest log-loss is
    taken, a figure that varies less and that also rates the confidence.
    """
    labels = tuple(str(index) for index in range(variants[0].shape[1]))
    best = max(range(len(variants)), key=lambda index: (value_of(metric, variants[index], gold_N), -index))
    found = [predictions_of(scores, gold_N, labels) for scores in variants]
    right = np.stack([each.chosen == gold_N for each in found]).astype(np.float64)
    lost = right[best] - right
    is_close = lost.mean(axis=1) <= lost.std(axis=1, ddof=min(1, len(gold_N) - 1)) / np.sqrt(len(gold_N))
    close = [index for index in range(len(variants)) if is_close[index]] if metric != "log_loss" else [best]
    return min(close, key=lambda index: (float(log_losses(found[index]).mean()), index))


def log_losses(found: Predictions) -> NDArray[np.float64]:
    """The log-loss of every row in nats, float64 [N]. A row that could not be run counts as one whose gold label has
    the probability 2.2e-16, the smallest that counts."""
    assert found.probabilities is not None, "made by `predictions_of`"
    of_gold = np.nan_to_num(found.probabilities[np.arange(len(found.gold)), found.gold])
    return -np.log(np.maximum(of_gold, np.finfo(np.float64).eps))
