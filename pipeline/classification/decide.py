"""Turns the scores of labels into probabilities, and probabilities into a label and a confidence, with NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tirazh.pipeline.classification.levels import Levels


@dataclass(frozen=True, slots=True)
class Decisions:
    """Decisions for N rows.

    `chosen` is the index of the label, -1 for a row that abstains, int64 [N]; the levels above the labels follow
    behind the labels. `confidence` is the probability of the chosen label or level, float32 [N], and that of the
    most likely label where the row abstains.
    """

    chosen: NDArray[np.int64]
    confidence: NDArray[np.float32]


def softmax(logprobs_NL: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probabilities of L labels [N, L] from their scores: natural logarithms, which need not be normalised."""
    # Subtracting the maximum keeps exp() from underflowing to zero for all labels.
    weights = np.exp(logprobs_NL - logprobs_NL.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def decide(
    probabilities_NL: NDArray[np.float32],
    *,
    threshold: float = 0.0,
    none_index: int | None = None,
    levels: Levels | None = None,
) -> Decisions:
    """Choose the most likely label of every row, the first of equal ones.

    A row whose most likely label is `none_index` abstains, and so does one whose highest probability is below
    `threshold`. With `levels` such a row gets the level above its most likely label whose labels together reach
    the threshold, the nearest one, if there is one.

    Everything follows from float32 values, those that the output has, so that the decision can be made again from
    the output. The threshold is rounded as they are: a probability that is equal to it reaches it.
    """
    rows = np.arange(len(probabilities_NL))
    winners = probabilities_NL.argmax(axis=1)
    confidence = probabilities_NL[rows, winners]
    least = np.float32(threshold)
    chosen = np.where(confidence < least, -1, winners)
    if none_index is not None:
        chosen[winners == none_index] = -1
    if levels is None:
        return Decisions(chosen, confidence)
    is_open = (chosen < 0) & (True if none_index is None else winners != none_index)
    for above_L in levels.nearest_first:
        found = np.flatnonzero(is_open & (above_L[winners] >= 0))
        wanted = above_L[winners[found]]
        sums = np.where(above_L == wanted[:, None], probabilities_NL[found], 0.0).sum(axis=1, dtype=np.float64)
        together = np.minimum(sums, 1.0).astype(np.float32)
        reached = together >= least
        chosen[found[reached]] = probabilities_NL.shape[1] + wanted[reached]
        confidence[found[reached]] = together[reached]
        is_open[found[reached]] = False
    return Decisions(chosen, confidence)


def choose_several(
    probabilities_NL: NDArray[np.float32], *, least: float, none_index: int | None = None
) -> NDArray[np.bool_]:
    """Whether each label is one of several of its row [N, L]: its probability is at least `least`.

    With `none_index` each label is compared with that one alone, p(l) / (p(l) + p(none)), and that one is never chosen.
    """
    if none_index is None:
        return probabilities_NL >= np.float32(least)
    none_N1 = probabilities_NL[:, none_index : none_index + 1].astype(np.float64)
    both = probabilities_NL + none_N1
    against_none = np.divide(probabilities_NL, both, out=np.zeros(both.shape), where=both > 0)
    chosen = against_none.astype(np.float32) >= np.float32(least)
    chosen[:, none_index] = False
    return chosen


def by_probability(probabilities_NL: NDArray[np.float32]) -> NDArray[np.int64]:
    """The labels of every row by falling probability [N, L], equal ones in the order of the labels."""
    return np.argsort(-probabilities_NL, axis=1, kind="stable")
