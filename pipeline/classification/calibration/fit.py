"""Fits the transforms on rows with gold labels, with SciPy and scikit-learn. Everything is deterministic.

All functions take `logprobs_NL`, log-probabilities as `transforms.normalised` gives them (natural logarithms, float64
[N, L]), and `gold_N`, indices of labels (int64 [N]).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tirazh.pipeline.classification.calibration.transforms import (
    Affine,
    Floats,
    Isotonic,
    Transform,
    log_odds,
    softmax,
)

Method = Literal["temperature", "batch", "vector", "isotonic"]
# The fewest parameters first; `choose.choose_method` relies on this order.
METHODS: tuple[Method, ...] = get_args(Method)
Ints = NDArray[np.int64]

# Scales from 1/100 to 100, that is temperatures from 100 to 1/100.
_LOG_SCALES = np.linspace(np.log(0.01), np.log(100.0), 41)
# Standard deviations of the prior distributions. Scales: that of the logarithm of the one scale of temperature scaling;
# in vector scaling, relative to that scale, those of the mean and of each scale around the mean. Biases in nats.
_LOG_SCALE_SD = 2.0
_MEAN_SCALE_SD = 1.0
_RELATIVE_SCALE_SD = 0.15
_BIAS_SD = 1.0


def fit(method: Method, logprobs_NL: Floats, gold_N: Ints) -> Transform:
    """Fit one method. `batch` does not read `gold_N`."""
    if method == "temperature":
        return _temperature(logprobs_NL, gold_N)
    if method == "batch":
        return batch_transform(np.exp(logprobs_NL).mean(axis=0))
    if method == "vector":
        return _vector(logprobs_NL, gold_N)
    return _isotonic(logprobs_NL, gold_N)


def log_loss(probabilities_NL: Floats, gold_N: Ints) -> Floats:
    """The log-loss of every row in nats, float64 [N]: minus the logarithm of the gold label's probability."""
    return np.asarray(-np.log(np.maximum(probabilities_NL[np.arange(len(gold_N)), gold_N], np.finfo(float).tiny)))


def batch_transform(mean_L: Floats) -> Affine:
    """Batch calibration (Zhou et al. 2023): subtract the logarithm of each label's mean probability over the rows."""
    biases = -np.log(np.maximum(mean_L, np.finfo(float).tiny))
    return Affine((1.0,) * len(mean_L), tuple(map(float, biases)))


def _temperature(logprobs_NL: Floats, gold_N: Ints) -> Affine:
    """Temperature scaling (Guo et al. 2017): one scale, 1 / temperature, with the lowest log-loss.

    A normal prior of the scale's logarithm, of the weight of about one row, keeps it finite where all rows are right.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_scale: float) -> float:
        mean = log_loss(softmax(np.exp(log_scale) * logprobs_NL), gold_N).mean()
        return float(mean + (log_scale / _LOG_SCALE_SD) ** 2 / (2 * len(gold_N)))

    # The loss may be flat far from its minimum, where a search by slopes or sections stops too early; a grid first
    # finds the interval.
    losses = [loss(log_scale) for log_scale in _LOG_SCALES]
    best = int(np.argmin(losses))
    ends = _LOG_SCALES[max(best - 1, 0)], _LOG_SCALES[min(best + 1, len(_LOG_SCALES) - 1)]
    found = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-7})
    scale = float(np.exp(found.x if found.fun < losses[best] else _LOG_SCALES[best]))
    labels = logprobs_NL.shape[1]
    return Affine((scale,) * labels, (0.0,) * labels)


def _vector(logprobs_NL: Floats, gold_N: Ints) -> Affine:
    """Vector scaling (Guo et al. 2017): a scale and a bias per label with the lowest log-loss.

    Normal priors hold each scale near the mean of all, and each bias near 0, so that labels with few rows change
    little. The penalised log-loss is convex.
    """
    from scipy.optimize import minimize

    rows, labels = logprobs_NL.shape
    common = _temperature(logprobs_NL, gold_N).scales[0]
    is_gold_NL = np.zeros((rows, labels))
    is_gold_NL[np.arange(rows), gold_N] = 1.0

    def loss(parameters: Floats) -> tuple[float, Floats]:
        scales, biases = parameters[:labels], parameters[labels:]
        probabilities_NL = softmax(scales * logprobs_NL + biases)
        mean = (scales.mean() / common - 1.0) / _MEAN_SCALE_SD
        spread = (scales - scales.mean()) / (common * _RELATIVE_SCALE_SD)
        centred = biases / _BIAS_SD
        penalty = (mean**2 + spread @ spread + centred @ centred) / 2
        errors_NL = probabilities_NL - is_gold_NL
        scale_slopes = spread / (common * _RELATIVE_SCALE_SD) + mean / (common * _MEAN_SCALE_SD * labels)
        slopes = np.concatenate(
            [(errors_NL * logprobs_NL).sum(axis=0) + scale_slopes, errors_NL.sum(axis=0) + centred / _BIAS_SD]
        )
        return float(log_loss(probabilities_NL, gold_N).mean() + penalty / rows), slopes / rows

    start = np.concatenate([np.full(labels, common), np.zeros(labels)])
    options = {"maxiter": 2000, "ftol": 1e-11, "gtol": 1e-7}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    # A negative scale would turn the order of rows around.
    return Affine(tuple(map(float, np.maximum(found[:labels], 0.0))), tuple(map(float, found[labels:])))


def _isotonic(logprobs_NL: Floats, gold_N: Ints) -> Isotonic:
    """One-vs-rest isotonic regression of "this label is the gold one" on the log-odds of the label."""
    from sklearn.isotonic import IsotonicRegression

    knots = []
    odds_NL = log_odds(logprobs_NL)
    for label in range(logprobs_NL.shape[1]):
        regression = IsotonicRegression(y_min=0.0, y_max=1.0, increasing=True, out_of_bounds="clip")
        regression.fit(odds_NL[:, label], (gold_N == label).astype(float))
        knots.append((tuple(map(float, regression.X_thresholds_)), tuple(map(float, regression.y_thresholds_))))
    return Isotonic(tuple(knots), len(gold_N))
