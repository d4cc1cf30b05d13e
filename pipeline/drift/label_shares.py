"""The shares of the labels of one question in an output and in its baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tirazh.pipeline.drift.counts import NOTHING, AnswerCounts
from tirazh.pipeline.drift.figures import MEANINGS, Finding
from tirazh.pipeline.drift.significance import expected_psi, holm, psi, same_share, same_shares

# How the index is read, in a sentence.
READINGS = {"none": "no change", "moderate": "moderate change", "large": "large change"}
# The label of rows that abstained; no label of a job is empty.
ABSTAINED = ""
_MODERATE, _LARGE = 0.1, 0.25
_MANY_BASELINES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelRow:
    """One label, `ABSTAINED` for rows without one. `rows` and `baseline_rows` have it; `shares` are those of each
    baseline. `precision` is the estimated one, the mean confidence of the rows with the label.

    `p_value` is corrected for the number of labels and of the other tests; None without a test.
    """

    label: str
    rows: int
    share: float
    baseline_rows: int
    baseline_share: float
    shares: tuple[float, ...]
    precision: float | None
    baseline_precision: float | None
    p_value: float | None = None
    finding: Finding = "not tested"

    @property
    def difference(self) -> float:
        """The share minus that of the baseline."""
        return self.share - self.baseline_share

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the label of rows that abstained is null."""
        return {
            "label": self.label or None,
            "rows": self.rows,
            "share": self.share,
            "baseline_rows": self.baseline_rows,
            "baseline_share": self.baseline_share,
            "of_baselines": list(self.shares),
            "difference": self.difference,
            "estimated_precision": self.precision,
            "baseline_estimated_precision": self.baseline_precision,
            "p_value": self.p_value,
            "finding": self.finding,
            "meaning": MEANINGS[self.finding],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelShares:
    """The labels with most rows first, rows that abstained last.

    `psi` is the population stability index of the shares and `expected_psi` what chance alone makes of it on average.
    `p_value` is that of the labels as a whole, None if they are not tested: they are other labels (`is_other`), or
    there are too few rows. `test` is the test of all shares at once.
    """

    rows: tuple[LabelRow, ...]
    psi: float
    expected_psi: float
    is_other: bool
    p_value: float | None = None
    test: str | None = None
    finding: Finding = "not tested"

    @property
    def corrected_psi(self) -> float:
        """The index without what chance makes of it, at least 0."""
        return max(0.0, self.psi - self.expected_psi)

    @property
    def reading(self) -> str:
        """The usual reading of the corrected index: "none" below 0.1, "moderate" up to 0.25, else "large"."""
        value = self.corrected_psi
        return "none" if value < _MODERATE else "moderate" if value <= _LARGE else "large"

    def decided(self, corrected: float | None, level: float, smallest: float) -> LabelShares:
        """With the findings that follow from the p-value that is corrected for the other tests; None without a test."""
        if corrected is None:
            if self.is_other or not self.rows or not any(row.shares for row in self.rows):
                return self
            return replace(self, finding="few rows", rows=tuple(replace(row, finding="few rows") for row in self.rows))
        rows = _decided(self.rows, corrected, level, smallest)
        finding: Finding = "chance"
        if corrected < level:
            large = [row for row in self.rows if abs(row.difference) >= smallest]
            usual = [row for row in large if _is_usual(row)]
            findings = {row.finding for row in rows}
            finding = "small" if not large else "in range" if len(usual) == len(large) else "changed"
            finding = "changed" if "changed" in findings else finding
        return replace(self, p_value=corrected, finding=finding, rows=rows)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "psi": self.psi,
            "expected_psi": self.expected_psi,
            "corrected_psi": self.corrected_psi,
            "reading": self.reading,
            "is_tested": self.p_value is not None,
            "test": self.test,
            "p_value": self.p_value,
            "finding": self.finding,
            "meaning": MEANINGS[self.finding],
            "labels": [row.to_dict() for row in self.rows],
        }


def compare_labels(
    answers: AnswerCounts, baselines: Sequence[AnswerCounts], *, is_other: bool, few: int
) -> LabelShares:
    """Compare the shares of labels, with fewer than `few` rows without a test. Without baselines all theirs are 0.

    The p-value of the labels as a whole is twice the smaller one of two: that of all shares at once, and the smallest
    one of a single label, corrected for the number of labels.
    """
    pool = sum(baselines, AnswerCounts())
    rows = _rows(answers, pool, baselines)
    here = np.array([row.rows for row in rows], np.int64)
    there = np.array([row.baseline_rows for row in rows], np.int64)
    found = LabelShares(rows=rows, psi=psi(here, there), expected_psi=expected_psi(here, there), is_other=is_other)
    if is_other or min(int(here.sum()), int(there.sum())) < few:
        return found
    p_all, test = same_shares(here, there)
    return replace(found, p_value=min(1.0, 2 * min(p_all, *_single(rows).values())), test=test)


def _rows(answers: AnswerCounts, pool: AnswerCounts, baselines: Sequence[AnswerCounts]) -> tuple[LabelRow, ...]:
    total, others = answers.rows, pool.rows

    def row(label: str) -> LabelRow:
        count, before = _count(answers, label), _count(pool, label)
        return LabelRow(
            label=label,
            rows=count,
            share=count / total if total else 0.0,
            baseline_rows=before,
            baseline_share=before / others if others else 0.0,
            shares=tuple(_count(each, label) / each.rows for each in baselines if each.rows),
            precision=answers.by_label.get(label, NOTHING).mean,
            baseline_precision=pool.by_label.get(label, NOTHING).mean,
        )

    labels = {label: answers.labels[label] + pool.labels[label] for label in [*answers.labels, *pool.labels]}
    names = sorted(labels, key=lambda label: (-labels[label], label))
    if answers.abstained or pool.abstained:
        names.append(ABSTAINED)
    return tuple(row(label) for label in names)


def _count(answers: AnswerCounts, label: str) -> int:
    return answers.abstained if label == ABSTAINED else answers.labels[label]


def _decided(rows: Sequence[LabelRow], corrected: float, level: float, smallest: float) -> tuple[LabelRow, ...]:
    """The rows with their findings. `corrected` is the p-value of the labels as a whole.

    If one label takes a larger share, those of all others fall. So the label with the smallest p-value is decided
    first, and the next ones by their shares of the rows that have none of the labels before; each step has the
    p-values of all labels that are left corrected for their number, and the last step decides all that are left.
    """
    left, found = list(rows), dict[str, LabelRow]()
    while left:
        single = _single(left)
        first = min(left, key=lambda row: single[row.label])
        p_value = max(corrected, single[first.label])
        if p_value >= level:
            found |= {
                row.label: replace(row, p_value=max(corrected, single[row.label]), finding="chance") for row in left
            }
            break
        finding: Finding = "in range" if _is_usual(first) else "changed"
        finding = "small" if abs(first.difference) < smallest else finding
        found[first.label] = replace(first, p_value=p_value, finding=finding)
        left.remove(first)
    return tuple(found[row.label] for row in rows)


def _single(rows: Sequence[LabelRow]) -> dict[str, float]:
    """The p-value of each label among the rows with one of these labels, corrected for their number."""
    here, there = sum(row.rows for row in rows), sum(row.baseline_rows for row in rows)
    return holm({row.label: same_share(row.rows, here, row.baseline_rows, there) for row in rows})


def _is_usual(row: LabelRow) -> bool:
    return len(row.shares) >= _MANY_BASELINES and min(row.shares) <= row.share <= max(row.shares)
