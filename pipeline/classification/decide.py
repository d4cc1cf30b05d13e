"""Turns label log-likelihoods into a label, a confidence and probabilities, with NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LabelDecisions:
    """Decisions for N rows and L labels.

    `chosen` is the index of the label, -1 for a row that abstains, int64 [N]; `confidence` the
    probability of the top label, float64 [N]; `probabilities` those of all labels, float64 [N, L].
    """

    chosen: NDArray[np.int64]
    confidence: NDArray[np.float64]
    probabilities: NDArray[np.float64]


def decide(logprobs_NL: NDArray[np.float64], *, abstain_below: float) -> LabelDecisions:
    """Apply softmax over the labels and choose the most likely one (the first of equal ones).

    A row whose top probability is below `abstain_below` abstains. `logprobs_NL` are natural logarithms.
    """
    # Subtracting the maximum keeps exp() from underflowing to zero for all labels.
    shifted = logprobs_NL - logprobs_NL.max(axis=1, keepdims=True)
    weights = np.exp(shifted)
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    winners = logprobs_NL.argmax(axis=1)
    confidence = probabilities[np.arange(len(probabilities)), winners]
    chosen = np.where(confidence < abstain_below, -1, winners)
    return LabelDecisions(chosen, confidence, probabilities)


def calibrate(logprobs: Sequence[float], priors: Sequence[float]) -> list[float]:
    """Contextual calibration (Zhao et al. 2021): subtract each label's log-likelihood after an empty text.

    It removes the model's bias towards labels that are frequent by themselves.
    """
    return [logprob - prior for logprob, prior in zip(logprobs, priors, strict=True)]
