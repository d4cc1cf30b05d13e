"""Evaluates predictions against gold labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tirazh.pipeline.evaluation.bootstrap import (
    MOST_CELLS,
    Interval,
    confusion_intervals,
    mean_interval,
    ranking_intervals,
)
from tirazh.pipeline.evaluation.confusion import (
    ClassFigures,
    Matrix,
    cells_of,
    class_table,
    confusion_matrix,
    first_level,
    macro_f1,
)
from tirazh.pipeline.evaluation.predictions import (
    NO_PROBABILITIES,
    SOME_PROBABILITIES,
    Predictions,
    RowFigures,
    figures_of,
)
from tirazh.pipeline.evaluation.ranking import (
    CurvePoint,
    ReliabilityBin,
    adaptive_calibration_error,
    calibration_error,
    coverage_at,
    coverage_curve,
    rank_rows,
    reliability,
)

NO_CONFIDENCE = "no row with a gold label has a confidence"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluation:
    """Figures of the rows that have a gold label.

    `rows` counts them, `answered` those with an answer. `accuracy` is over the answered rows, None if there are none;
    `accuracy_abstained_wrong` counts every other row as wrong. `macro_f1` is the mean over the labels with gold rows.
    `first_level_accuracy` compares the names before the first `/`, over the answered rows; None if no label has one.
    `confusion` is int64 [L, L + 1], its last column for rows that abstained.

    `ece`, `adaptive_ece`, the coverages, `reliability` and `curve` are about the most likely label and its
    probability, also of rows that abstained; `coverage_at_5_percent` is the largest share of rows that can be
    answered with at most 5 % of them wrong. `brier` is between 0 and 2, `log_loss` in nats. A figure that cannot be
    computed is None, and `missing` says why, by its name. `intervals` are 95 % percentile bootstrap intervals, by the
    names of the figures.
    """

    labels: tuple[str, ...]
    rows: int
    answered: int
    coverage: float
    accuracy: float | None
    accuracy_abstained_wrong: float
    macro_f1: float
    first_level_accuracy: float | None
    ece: float | None
    adaptive_ece: float | None
    brier: float | None
    log_loss: float | None
    coverage_at_5_percent: float | None
    coverage_at_1_percent: float | None
    intervals: Mapping[str, Interval]
    missing: Mapping[str, str]
    classes: tuple[ClassFigures, ...]
    confusion: Matrix
    reliability: tuple[ReliabilityBin, ...]
    curve: tuple[CurvePoint, ...]
    resamples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values with the names of the fields; `confusion` is a list of (gold label, answer or None, rows)."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return values | {
            "labels": list(self.labels),
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
            "missing": dict(self.missing),
            "classes": [asdict(each) for each in self.classes],
            "confusion": [list(cell) for cell in cells_of(self.labels, self.confusion)],
            "reliability": [asdict(each) for each in self.reliability],
            "curve": [asdict(each) for each in self.curve],
        }


def evaluate(predictions: Predictions, *, seed: int = 0, resamples: int = 1000) -> Evaluation:
    """Evaluate the rows that have a gold label.

    `seed` is that of the bootstrap; 0 `resamples` leave the intervals out. The intervals of accuracy and macro-F1
    are exact bootstrap intervals, those of ECE, coverage, Brier score and log-loss up to 4096 different values; beyond
    see `bootstrap.py`. Raises ValueError if no row has a gold label.
    """
    return evaluate_figures(figures_of(predictions), seed=seed, resamples=resamples)


def evaluate_figures(figures: RowFigures, *, seed: int = 0, resamples: int = 1000) -> Evaluation:
    """Evaluate rows by their figures, as `evaluate` does, in a memory that does not depend on the labels."""
    figures = figures.with_gold()
    rows = len(figures.gold)
    if not rows:
        raise ValueError("no row has a gold label")
    matrix = confusion_matrix(figures.gold, figures.chosen, len(figures.labels))
    answered, right = int(matrix[:, :-1].sum()), int(np.trace(matrix))
    found = _Found({}, {}, {})
    _add_confidence(found, figures, seed=seed, resamples=resamples)
    _add_losses(found, figures, seed=seed, resamples=resamples)
    if resamples:
        found.intervals.update(confusion_intervals(matrix, seed=seed, resamples=resamples))
    return Evaluation(
        labels=figures.labels,
        rows=rows,
        answered=answered,
        coverage=answered / rows,
        accuracy=right / answered if answered else None,
        accuracy_abstained_wrong=right / rows,
        macro_f1=macro_f1(matrix),
        first_level_accuracy=_first_level_accuracy(figures.labels, matrix),
        intervals=found.intervals,
        missing=found.missing,
        classes=class_table(figures.labels, matrix),
        confusion=matrix,
        resamples=resamples,
        seed=seed,
        **found.values,
    )


@dataclass(frozen=True, slots=True)
class _Found:
    values: dict[str, Any]
    intervals: dict[str, Interval]
    missing: dict[str, str]


def _add_confidence(found: _Found, figures: RowFigures, *, seed: int, resamples: int) -> None:
    known = (figures.winner >= 0) & ~np.isnan(figures.confidence)
    if not known.any():
        names = ("ece", "adaptive_ece", "coverage_at_5_percent", "coverage_at_1_percent")
        found.values.update(dict.fromkeys(names), reliability=(), curve=())
        found.missing.update(dict.fromkeys(names, NO_CONFIDENCE))
        return
    confidence, is_right = figures.confidence[known], (figures.winner == figures.gold)[known]
    ranked = rank_rows(confidence, is_right)
    share = float(known.mean())  # rows without a confidence are never taken
    found.values.update(
        ece=calibration_error(ranked),
        adaptive_ece=adaptive_calibration_error(ranked),
        coverage_at_5_percent=share * coverage_at(ranked, 0.05),
        coverage_at_1_percent=share * coverage_at(ranked, 0.01),
        reliability=reliability(ranked),
        curve=tuple(replace(point, coverage=share * point.coverage) for point in coverage_curve(ranked)),
    )
    if resamples:
        merged = rank_rows(confidence, is_right, most=MOST_CELLS)
        intervals = ranking_intervals(merged, seed=seed, resamples=resamples)
        low, high = intervals["coverage_at_5_percent"]
        found.intervals.update(intervals, coverage_at_5_percent=(share * low, share * high))


def _add_losses(found: _Found, figures: RowFigures, *, seed: int, resamples: int) -> None:
    for name, losses in (("brier", figures.brier), ("log_loss", figures.log_loss)):
        if np.isnan(losses).any():
            found.values[name] = None
            found.missing[name] = SOME_PROBABILITIES if figures.has_probabilities else NO_PROBABILITIES
            continue
        found.values[name] = float(losses.mean())
        if resamples:
            found.intervals[name] = mean_interval(losses, seed=seed, resamples=resamples)


def _first_level_accuracy(labels: tuple[str, ...], matrix: Matrix) -> float | None:
    if not any("/" in label for label in labels):
        return None
    _, joined = first_level(labels, matrix)
    answered = int(joined[:, :-1].sum())
    return int(np.trace(joined)) / answered if answered else None
