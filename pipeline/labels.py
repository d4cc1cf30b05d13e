"""From label log-likelihoods to label, confidence and probabilities. Pure arithmetic on NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LabelDecisions:
    """For N rows and L labels: the chosen label's index (-1: abstained) int64 [N], the winner's probability
    float64 [N], and all probabilities float64 [N, L]."""

    chosen: NDArray[np.int64]
    confidence: NDArray[np.float64]
    probabilities: NDArray[np.float64]


def decide(logprobs_NL: NDArray[np.float64], *, abstain_below: float) -> LabelDecisions:
    """Softmax over the labels; the likeliest wins, the earlier of two equal ones, unless its probability is below
    `abstain_below`."""
    shifted = logprobs_NL - logprobs_NL.max(axis=1, keepdims=True)
    weights = np.exp(shifted)
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    winners = logprobs_NL.argmax(axis=1)
    confidence = probabilities[np.arange(len(probabilities)), winners]
    chosen = np.where(confidence < abstain_below, -1, winners)
    return LabelDecisions(chosen, confidence, probabilities)


def calibrate(logprobs: Sequence[float], priors: Sequence[float]) -> list[float]:
    """Log-likelihoods less what each label has without any text: a label that is common by itself proves less."""
    return [logprob - prior for logprob, prior in zip(logprobs, priors, strict=True)]
