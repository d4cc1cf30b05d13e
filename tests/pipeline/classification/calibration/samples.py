"""Synthetic scores of labels: a true distribution, and a model that is too sure of itself and biased."""

from __future__ import annotations

import numpy as np

from tirazh.pipeline.classification.calibration.fit import Ints
from tirazh.pipeline.classification.calibration.transforms import Floats, normalised, softmax


def draw(
    rows: int, labels: int, *, seed: int = 0, overconfidence: float = 3.0, bias: float = 0.0
) -> tuple[Floats, Ints]:
    """(log-probabilities [N, L], gold [N]) of a model whose temperature is `overconfidence`, and whose labels have
    biases of that standard deviation, in nats; the biases are the same for every seed."""
    random = np.random.default_rng(seed)
    true_NL = softmax(2.0 * random.normal(size=(rows, labels)))
    gold_N = (true_NL.cumsum(axis=1) > random.random((rows, 1))).argmax(axis=1)
    biases_L = bias * np.random.default_rng(99).normal(size=labels)
    return normalised(overconfidence * (np.log(true_NL) + biases_L)), gold_N.astype(np.int64)


def expected_calibration_error(probabilities_NL: Floats, gold_N: Ints, bins: int = 15) -> float:
    """Weighted mean over bins of |mean confidence - accuracy|, by its definition."""
    confidence, right = probabilities_NL.max(axis=1), probabilities_NL.argmax(axis=1) == gold_N
    bin_N = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs((confidence - right)[bin_N == each].sum()) for each in range(bins)]
    return float(sum(gaps) / len(gold_N))
