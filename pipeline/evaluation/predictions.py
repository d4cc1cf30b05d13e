"""Gold labels and predictions as arrays, and the figures of each row that an evaluation adds up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_PROBABILITIES = "the predictions have no probabilities"
SOME_PROBABILITIES = "rows have no probability of some labels, as with --top"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Predictions:
    """N rows with L labels.

    `gold` is the index of the gold label, int64 [N], -1 without one; `chosen` that of the answer, int64 [N], -1 for
    a row that abstained. `confidence` is the probability of the most likely label, float64 [N], NaN where unknown.
    `probabilities` are those of all labels, float64 [N, L], NaN where unknown; None if there are none. `winners` are
    the most likely labels, int64 [N], also of rows that abstained; by default they follow from the other arrays.
    Raises ValueError for shapes and indices that contradict each other.
    """

    labels: tuple[str, ...]
    gold: NDArray[np.int64]
    chosen: NDArray[np.int64]
    confidence: NDArray[np.float64]
    probabilities: NDArray[np.float64] | None = None
    winners: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        rows = self.gold.shape
        arrays = [self.gold, self.chosen, self.confidence, *([self.winners] if self.winners is not None else [])]
        if len(rows) != 1 or any(array.shape != rows for array in arrays):
            raise ValueError("gold, chosen, confidence and winners must be of one shape [N]")
        if self.probabilities is not None and self.probabilities.shape != (*rows, len(self.labels)):
            raise ValueError(f"probabilities must be of shape [{rows[0]}, {len(self.labels)}]")
        for name, array in (("gold", self.gold), ("chosen", self.chosen)):
            if array.size and not (-1 <= array.min() and array.max() < len(self.labels)):
                raise ValueError(f"{name} must hold indices of labels, or -1")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RowFigures:
    """What an evaluation needs of N rows, whatever the number of labels.

    `winner` is the most likely label, int64 [N], -1 where unknown. `brier` and `log_loss` are the losses of each row
    with a gold label, float64 [N], NaN where unknown.
    """

    labels: tuple[str, ...]
    gold: NDArray[np.int64]
    chosen: NDArray[np.int64]
    winner: NDArray[np.int64]
    confidence: NDArray[np.float64]
    brier: NDArray[np.float64]
    log_loss: NDArray[np.float64]
    has_probabilities: bool

    def with_gold(self) -> RowFigures:
        """The rows that have a gold label."""
        rows = self.gold >= 0
        return RowFigures(
            labels=self.labels,
            gold=self.gold[rows],
            chosen=self.chosen[rows],
            winner=self.winner[rows],
            confidence=self.confidence[rows],
            brier=self.brier[rows],
            log_loss=self.log_loss[rows],
            has_probabilities=self.has_probabilities,
        )


def figures_of(predictions: Predictions) -> RowFigures:
    """Compute the figures of each row.

    The Brier score of a row is the sum over the labels of (probability - 1 for the gold label, 0 for others)²
    (Brier 1950), between 0 and 2. The log-loss is -ln of the gold label's probability, which counts as at least
    2.2e-16, as in scikit-learn.
    """
    rows = len(predictions.gold)
    brier, log_loss = np.full(rows, np.nan), np.full(rows, np.nan)
    chances = predictions.probabilities
    if chances is not None:
        known = np.flatnonzero(predictions.gold >= 0)
        of_gold = chances[known, predictions.gold[known]]
        # NaN, if the probability of any label is unknown.
        brier[known] = np.einsum("nl,nl->n", chances, chances)[known] - 2 * of_gold + 1
        log_loss[known] = -np.log(np.maximum(of_gold, np.finfo(np.float64).eps))
        log_loss[np.isnan(brier)] = np.nan
    return RowFigures(
        labels=predictions.labels,
        gold=predictions.gold,
        chosen=predictions.chosen,
        winner=_winners(predictions),
        confidence=predictions.confidence,
        brier=brier,
        log_loss=log_loss,
        has_probabilities=chances is not None,
    )


def join_figures(batches: Sequence[RowFigures]) -> RowFigures:
    """Put the rows of several batches with the same labels in one. Raises ValueError without any batch."""
    if not batches:
        raise ValueError("there are no rows")
    return RowFigures(
        labels=batches[0].labels,
        gold=np.concatenate([each.gold for each in batches]),
        chosen=np.concatenate([each.chosen for each in batches]),
        winner=np.concatenate([each.winner for each in batches]),
        confidence=np.concatenate([each.confidence for each in batches]),
        brier=np.concatenate([each.brier for each in batches]),
        log_loss=np.concatenate([each.log_loss for each in batches]),
        has_probabilities=all(each.has_probabilities for each in batches),
    )


def _winners(predictions: Predictions) -> NDArray[np.int64]:
    if predictions.winners is not None:
        return predictions.winners
    winners = predictions.chosen.copy()
    chances = predictions.probabilities
    if chances is not None and chances.shape[1]:
        unknown = np.flatnonzero(winners < 0)
        known = np.where(np.isnan(chances[unknown]), -1.0, chances[unknown])
        winners[unknown] = np.where(known.max(axis=1, initial=-1.0) < 0, -1, known.argmax(axis=1))
    return winners
