"""From the engine's scores of texts to the log-probabilities of labels.

The texts are the candidates of the labels: the words of each label and its aliases. Everything here is a pure function
of arrays of natural logarithms. Letters of shapes: N rows, E texts that the engine scores, C candidates, L labels of
all questions, O orders of the few-shot examples, M texts of a prior.

For one row and one order: `score_candidates` applies `scoring`, `add_candidates` adds up the probabilities of a label's
candidates, `subtract_prior` calibrates, `normalise` lets the probabilities of each question sum to one, and
`average_orders` averages those of all orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Scoring = Literal["sum", "mean", "pmi"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelLayout:
    """What the engine's scores belong to.

    `entries[c]` is the place of candidate c among the E texts that the engine scores: two questions may score the same
    text. `owners[c]` is its label, counted over all questions; a label's candidates stand together, in the order of the
    labels. `lengths[c]` is the number of its tokens that are scored. `sizes` are the numbers of labels of the
    questions. `orders` is the number of orders of the few-shot examples, and so of prompts of a row.
    """

    entries: tuple[int, ...]
    owners: tuple[int, ...]
    lengths: tuple[int, ...]
    sizes: tuple[int, ...]
    scoring: Scoring = "sum"
    orders: int = 1

    @property
    def starts(self) -> list[int]:
        """The first label of every question."""
        return [sum(self.sizes[:index]) for index in range(len(self.sizes))]


@dataclass(frozen=True, slots=True)
class Corrections:
    """What is scored once for a job: `premise` [E] the scores of the texts after the domain premise, `priors` [O, L]
    the logarithms of the mean probabilities of the labels. None where the job has none."""

    premise: Floats | None = None
    priors: Floats | None = None


NO_CORRECTIONS = Corrections()


def label_logprobs(scores_ONE: Any, layout: LabelLayout, corrections: Corrections = NO_CORRECTIONS) -> Floats:
    """Return a logarithm of a score for every label of N rows, shape [N, L].

    scores_ONE: the engine's log-likelihoods, float64 [O, N, E]. With several orders the scores of each question are
    probabilities, which sum to one; otherwise they need not.
    """
    orders = []
    for index, scores_NE in enumerate(np.asarray(scores_ONE, np.float64)):
        labels_NL = _one_order(scores_NE, layout, corrections.premise)
        if corrections.priors is not None:
            labels_NL = subtract_prior(labels_NL, corrections.priors[index])
        orders.append(labels_NL)
    return orders[0] if len(orders) == 1 else average_orders([normalise(each, layout) for each in orders])


def label_priors(scores_OME: Any, layout: LabelLayout, premise_E: Floats | None = None) -> Floats:
    """Return the logarithm of the mean probability of every label over M texts, for each order: shape [O, L].

    Contextual calibration (Zhao et al. 2021, "Calibrate Before Use") divides by the mean over content-free texts, batch
    calibration (Zhou et al. 2023) by the mean over a sample of the rows. scores_OME: float64 [O, M, E].
    """
    orders = np.asarray(scores_OME, np.float64)
    return np.stack([mean_logprobs(normalise(_one_order(each, layout, premise_E), layout)) for each in orders])


def score_candidates(scores_NE: Floats, layout: LabelLayout, premise_E: Floats | None = None) -> Floats:
    """Return the score of every candidate, shape [N, C].

    `sum`: the log-likelihood. `mean`: the log-likelihood divided by the number of the candidate's tokens; the term for
    the end of a label, which some jobs have, counts as no token. `pmi`: the log-likelihood less that after the domain
    premise, `premise_E` (Holtzman et al. 2021, "Surface Form Competition", PMI_DC).
    """
    entries = list(layout.entries)
    scores_NC = scores_NE[:, entries]
    if layout.scoring == "mean":
        return scores_NC / np.array(layout.lengths, np.float64)
    if layout.scoring == "pmi":
        if premise_E is None:
            raise ValueError("the scoring pmi needs the scores after the premise")
        return scores_NC - premise_E[entries]
    return scores_NC


def add_candidates(scores_NC: Floats, owners: Sequence[int]) -> Floats:
    """Add up the probabilities of the candidates of each label: log-sum-exp, shape [N, L]."""
    first = np.flatnonzero(np.diff(owners, prepend=-1))
    return np.logaddexp.reduceat(scores_NC, first, axis=1)


def subtract_prior(labels_NL: Floats, prior_L: Floats) -> Floats:
    """Divide the probabilities by those of the prior."""
    return labels_NL - prior_L


def normalise(labels_NL: Floats, layout: LabelLayout) -> Floats:
    """Let the probabilities of the labels of each question sum to one."""
    sums_NQ = np.logaddexp.reduceat(labels_NL, layout.starts, axis=1)
    normalised: Floats = labels_NL - np.repeat(sums_NQ, layout.sizes, axis=1)
    return normalised


def average_orders(orders: Sequence[Floats]) -> Floats:
    """Return the logarithm of the mean of probabilities, elementwise over arrays of logarithms."""
    return mean_logprobs(np.stack(orders))


def mean_logprobs(logprobs: Floats) -> Floats:
    """Return the logarithm of the mean probability over the first axis."""
    mean: Floats = np.logaddexp.reduce(logprobs, axis=0) - np.log(len(logprobs))
    return mean


def _one_order(scores_NE: Floats, layout: LabelLayout, premise_E: Floats | None) -> Floats:
    return add_candidates(score_candidates(scores_NE, layout, premise_E), layout.owners)
