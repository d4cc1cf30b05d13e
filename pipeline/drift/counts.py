"""What a comparison needs of an output: counts that add up, so that several outputs are one baseline.

Their size depends on the labels and the bins, never on the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Histogram = NDArray[np.int64]
# Bins of equal width of the confidences from 0 to 1; a multiple of those of the report.
CONFIDENCE_BINS = 2_000
# Bins of bits per character, from 0 to 64.
BITS_BINS, MOST_BITS = 12_800, 64.0


def _empty() -> Histogram:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """`rows` values, their sum, and `variance`, the sum of p(1 - p) where the values are probabilities p."""

    rows: int = 0
    sum: float = 0.0
    variance: float = 0.0

    @property
    def mean(self) -> float | None:
        """The mean; None without values."""
        return self.sum / self.rows if self.rows else None

    def __add__(self, other: Moments) -> Moments:
        return Moments(rows=self.rows + other.rows, sum=self.sum + other.sum, variance=self.variance + other.variance)


NOTHING = Moments()


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerCounts:
    """The answers to one question in the rows without an error.

    `labels` has the number of rows of every label and `by_label` their confidences, as far as they are known;
    `abstained` is the number of rows without a label. `confidence` are the confidences of all rows, and `histogram`
    counts them in `CONFIDENCE_BINS` bins. `gold_answers` are the confidences of the answered rows that have a gold
    label, `gold_right` the number of them whose label is right.
    """

    labels: Counter[str] = field(default_factory=Counter)
    by_label: dict[str, Moments] = field(default_factory=dict)
    abstained: int = 0
    confidence: Moments = NOTHING
    histogram: Histogram = field(default_factory=_empty)
    gold_answers: Moments = NOTHING
    gold_right: int = 0

    @property
    def answered(self) -> Moments:
        """The confidences of the rows with a label."""
        return sum(self.by_label.values(), NOTHING)

    @property
    def rows(self) -> int:
        """Rows with a label, and rows that abstained."""
        return self.labels.total() + self.abstained

    def __add__(self, other: AnswerCounts) -> AnswerCounts:
        names = dict.fromkeys([*self.by_label, *other.by_label])
        return AnswerCounts(
            labels=self.labels + other.labels,
            by_label={name: self.by_label.get(name, NOTHING) + other.by_label.get(name, NOTHING) for name in names},
            abstained=self.abstained + other.abstained,
            confidence=self.confidence + other.confidence,
            histogram=add(self.histogram, other.histogram),
            gold_answers=self.gold_answers + other.gold_answers,
            gold_right=self.gold_right + other.gold_right,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputCounts:
    """The counts of an output, or of several together.

    `answers` are by the name of the question, "" for one without a name. `lengths` counts rows by their prompt
    tokens, `completions` by their completion tokens, `bits` by bits per character in `BITS_BINS` bins, whose sums are
    exact. `reasons` counts completions by how they ended.
    """

    rows: int = 0
    errors: int = 0
    answers: dict[str, AnswerCounts] = field(default_factory=dict)
    lengths: Histogram = field(default_factory=_empty)
    completions: Histogram = field(default_factory=_empty)
    bits: Histogram = field(default_factory=_empty)
    bits_moments: Moments = NOTHING
    reasons: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: OutputCounts) -> OutputCounts:
        names = dict.fromkeys([*self.answers, *other.answers])
        nothing = AnswerCounts()
        return OutputCounts(
            rows=self.rows + other.rows,
            errors=self.errors + other.errors,
            answers={name: self.answers.get(name, nothing) + other.answers.get(name, nothing) for name in names},
            lengths=add(self.lengths, other.lengths),
            completions=add(self.completions, other.completions),
            bits=add(self.bits, other.bits),
            bits_moments=self.bits_moments + other.bits_moments,
            reasons=self.reasons + other.reasons,
        )


def pooled(counts: Iterable[OutputCounts]) -> OutputCounts:
    """The counts of several outputs together."""
    return sum(counts, OutputCounts())


def add(first: Histogram, second: Histogram) -> Histogram:
    """The sum of two histograms, the shorter one filled with zeros."""
    if len(first) < len(second):
        first, second = second, first
    total = first.copy()
    total[: len(second)] += second
    return total


def mean_of(histogram: Histogram) -> float | None:
    """The mean of integers that are counted by their value; None without any."""
    rows = int(histogram.sum())
    return float(np.arange(len(histogram)) @ histogram) / rows if rows else None


def count_confidences(values: NDArray[Any]) -> Histogram:
    """Count float32 confidences [N], without those that are no numbers."""
    # The borders are rounded as the confidences are: 0.7 belongs to the bin that begins with it.
    borders = (np.arange(1, CONFIDENCE_BINS) / CONFIDENCE_BINS).astype(np.float32)
    bins = np.searchsorted(borders, values[np.isfinite(values)].astype(np.float32), side="right")
    return np.bincount(bins, minlength=CONFIDENCE_BINS).astype(np.int64)


def moments_of(values: NDArray[np.float64]) -> Moments:
    """The moments of probabilities [N], without those that are no numbers."""
    known = values[np.isfinite(values)]
    return Moments(rows=len(known), sum=float(known.sum()), variance=float((known * (1 - known)).sum()))
