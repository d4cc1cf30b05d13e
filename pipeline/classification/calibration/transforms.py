"""Transforms of label log-probabilities into calibrated probabilities. NumPy only, and small to send to a task.

Temperature, vector and batch calibration are all affine: a scale and a bias per label before the softmax.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Lowest log-probability that is used: about the smallest normal number of float32, in which outputs store
# probabilities. So stored probabilities and a model's own scores give the same calibration.
FLOOR = float(np.log(1e-37))


@dataclass(frozen=True, slots=True)
class Affine:
    """softmax(scales · log p + biases), with one scale and one bias per label; `log p` as `normalised` gives it."""

    scales: tuple[float, ...]
    biases: tuple[float, ...]

    def apply(self, logprobs_NL: Floats) -> Floats:
        """Probabilities, float64 [N, L], rows that sum to 1, of normalised log-probabilities."""
        return softmax(np.asarray(self.scales) * logprobs_NL + np.asarray(self.biases))


@dataclass(frozen=True, slots=True)
class Isotonic:
    """A rising function for each label, applied to the log-odds of its probability, then normalised
    (Zadrozny & Elkan 2002).

    `knots` has for each label the log-odds and the shares of the function's corners; it is linear in between and
    constant outside. `rows` is the number of rows it was fitted on. The row's own probability, half and half with a
    uniform one, counts as one row more: no probability is 0, and rows in a constant stretch keep their order.
    """

    knots: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]
    rows: int

    def apply(self, logprobs_NL: Floats) -> Floats:
        """Probabilities, float64 [N, L], rows that sum to 1, of normalised log-probabilities."""
        odds_NL = log_odds(logprobs_NL)
        shares_NL = np.stack([np.interp(odds_NL[:, k], *knots) for k, knots in enumerate(self.knots)], axis=1)
        own_NL = 0.5 * np.exp(logprobs_NL) + 0.5 / len(self.knots)
        mixed_NL = (self.rows * shares_NL + own_NL) / (self.rows + 1)
        return np.asarray(mixed_NL / mixed_NL.sum(axis=1, keepdims=True))


Transform = Affine | Isotonic


def normalised(logprobs_NL: Floats) -> Floats:
    """Log-probabilities of labels, float64 [N, L]: the log-softmax of any scores, not below `FLOOR`."""
    shifted = logprobs_NL - logprobs_NL.max(axis=1, keepdims=True)
    return np.asarray(np.maximum(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), FLOOR))


def log_odds(logprobs_NL: Floats) -> Floats:
    """log(p / (1 - p)) of log p, float64 [N, L], limited to ±`-FLOOR`."""
    below_one = np.minimum(logprobs_NL, np.log1p(-np.exp(FLOOR)))
    return np.asarray(below_one - np.log(-np.expm1(below_one)))


def softmax(scores_NL: Floats) -> Floats:
    """Probabilities, float64 [N, L], of scores in natural logarithms."""
    # Subtracting the maximum keeps exp() from underflowing to zero for all labels.
    weights = np.exp(scores_NL - scores_NL.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
