"""Decides which differences are beyond chance.

One family of tests is made for a comparison: the labels and the confidences of every question, accuracy, errors,
lengths and the like. Their p-values are corrected for their number by Holm's method, so that without any change the
chance of a single false alarm is at most `LEVEL`. A difference counts as a change if it is also large enough to matter
and, with three baselines or more, larger than those among the baselines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tirazh.pipeline.drift.counts import AnswerCounts, Histogram, add
from tirazh.pipeline.drift.estimate import estimate
from tirazh.pipeline.drift.figures import FIGURES, OF_QUESTIONS, Figure, Finding, Measured, together
from tirazh.pipeline.drift.label_shares import ABSTAINED, LabelShares, compare_labels
from tirazh.pipeline.drift.significance import holm, same_distribution, same_share, same_shares

LEVEL = 0.02
FEW_ROWS = 30
MANY_BASELINES = 3
# The smallest differences that matter: of shares, of the share of errors, and of the distance of two distributions.
_SHARE, _ERRORS, _DISTANCE = 0.01, 0.002, 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Test:
    """One test of the family: its p-value, the size of the difference and the smallest one that matters, and whether
    the baselines differ as much among themselves. `distance` is that of two distributions."""

    p_value: float
    size: float
    smallest: float
    is_usual: bool
    distance: float | None = None

    def finding(self, corrected: float) -> Finding:
        """What the difference means with this corrected p-value."""
        if corrected >= LEVEL:
            return "chance"
        if self.size < self.smallest:
            return "small"
        return "in range" if self.is_usual else "changed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """The figures in their order, and the labels of each question."""

    figures: tuple[Figure, ...]
    labels: Mapping[str, LabelShares]


def find(
    output: Measured, baselines: Sequence[Measured], same_labels: Mapping[str, Sequence[bool]] | None = None
) -> Findings:
    """Compare an output with its baselines; without any the figures have only their values.

    `same_labels` says for each question which of the baselines have its labels; the shares of the others' labels are
    shown and not tested. By default all have.
    """
    here, there = output.values(), together(baselines).values() if baselines else {}
    of_each = [each.values() for each in baselines]
    tests = _tests(output, baselines)
    labels = _labels(output, baselines, same_labels or {})
    family = {name: test.p_value for name, test in tests.items()}
    family |= {("labels", name): each.p_value for name, each in labels.items() if each.p_value is not None}
    corrected = dict(zip(family, holm({str(name): p for name, p in family.items()}).values(), strict=True))
    decided = {name: each.decided(corrected.get(("labels", name)), LEVEL, _SHARE) for name, each in labels.items()}
    figures = []
    for name, question in _ordered([*here, *there]):
        key = (name, question)
        values = tuple(each.get(key) for each in of_each)
        figure = Figure(name=name, question=question, value=here.get(key), baseline=there.get(key), of_baselines=values)
        figures.append(_judged(figure, output, tests.get(key), corrected.get(key), decided.get(question)))
    known = [each for each in figures if each.value is not None or each.baseline is not None]
    return Findings(figures=tuple(known), labels=decided)


def _judged(
    figure: Figure, output: Measured, test: Test | None, corrected: float | None, labels: LabelShares | None
) -> Figure:
    """The figure with its test, its interval and its finding."""
    finding: Finding = "not tested"
    distance = None
    if test is not None and corrected is not None:
        finding, distance = test.finding(corrected), test.distance
    elif figure.baseline is not None and (figure.name in _TESTED or (figure.name == "abstained" and labels)):
        finding = "few rows"
    if figure.name == "abstained" and labels is not None:
        row = next((each for each in labels.rows if each.label == ABSTAINED), None)
        if row is not None and labels.p_value is not None:
            corrected, finding = row.p_value, row.finding
        elif labels.is_other:
            finding = "not tested"
        elif row is None and figure.baseline is not None and labels.p_value is not None:
            corrected, finding = 1.0, "chance"
    interval = None
    if figure.name == "estimated_accuracy" and figure.question in output.counts.answers:
        found = estimate(output.counts.answers[figure.question].answered)
        interval = (found[1], found[2]) if found is not None else None
    return Figure(
        name=figure.name,
        question=figure.question,
        value=figure.value,
        baseline=figure.baseline,
        of_baselines=figure.of_baselines,
        p_value=corrected,
        distance=distance,
        interval=interval,
        finding=finding,
    )


_TESTED = ("errors", "confidence", "accuracy", "length", "completion_length", "cut", "bits_per_character")


def _tests(output: Measured, baselines: Sequence[Measured]) -> dict[tuple[str, str], Test]:
    """The tests for which there are rows enough, by (figure, question); those of labels are apart."""
    if not baselines:
        return {}
    found: dict[tuple[str, str], Test | None] = {
        ("errors", ""): _share_test(
            [(each.counts.errors, each.counts.rows) for each in (output, *baselines)], smallest=_ERRORS
        ),
        ("length", ""): _distribution_test(output, baselines, lambda each: each.counts.lengths),
        ("completion_length", ""): _distribution_test(output, baselines, lambda each: each.counts.completions),
        ("bits_per_character", ""): _distribution_test(output, baselines, lambda each: each.counts.bits),
        ("cut", ""): _reasons_test(output, baselines),
    }
    for question in output.counts.answers:
        found["confidence", question] = _distribution_test(output, baselines, _confidences(question))
    for question, gold in output.gold.items():
        others = [each.gold[question] for each in baselines if question in each.gold]
        pairs = [(gold.right, gold.rows), *((each.right, each.rows) for each in others)]
        found["accuracy", question] = _share_test(pairs, smallest=_SHARE)
    return {name: test for name, test in found.items() if test is not None}


def _confidences(question: str) -> Callable[[Measured], Histogram]:
    return lambda each: each.counts.answers.get(question, AnswerCounts()).histogram


def _share_test(pairs: Sequence[tuple[int, int]], *, smallest: float) -> Test | None:
    """The test of a share; `pairs` are (part, whole) of the output and of each baseline."""
    (part, whole), others = pairs[0], pairs[1:]
    parts, wholes = sum(each[0] for each in others), sum(each[1] for each in others)
    if min(whole, wholes) < FEW_ROWS:
        return None
    shares = [each[0] / each[1] for each in others if each[1]]
    return Test(
        p_value=same_share(part, whole, parts, wholes),
        size=abs(part / whole - parts / wholes),
        smallest=smallest,
        is_usual=is_usual(part / whole, shares),
    )


def is_usual(value: float, values: Sequence[float]) -> bool:
    """Whether a value lies among those of three baselines or more."""
    return len(values) >= MANY_BASELINES and min(values) <= value <= max(values)


def _distribution_test(
    output: Measured, baselines: Sequence[Measured], histogram_of: Callable[[Measured], Histogram]
) -> Test | None:
    here, others = histogram_of(output), [histogram_of(each) for each in baselines]
    pool = np.zeros(0, np.int64)
    for each in others:
        pool = add(pool, each)
    if min(here.sum(), pool.sum()) < FEW_ROWS:
        return None
    distance, p_value = same_distribution(here, pool)
    among = []
    if p_value < LEVEL and len(others) >= MANY_BASELINES:
        # As far as the output is from its baselines: each of them from the others.
        among = [same_distribution(each, add(pool, -add(each, np.zeros_like(pool))))[0] for each in others]
    return Test(
        p_value=p_value,
        size=distance,
        smallest=_DISTANCE,
        is_usual=distance <= max(among, default=0.0),
        distance=distance,
    )


def _reasons_test(output: Measured, baselines: Sequence[Measured]) -> Test | None:
    """The test of how completions ended."""
    reasons = sorted({name for each in (output, *baselines) for name in each.counts.reasons})
    counts = [np.array([each.counts.reasons[name] for name in reasons], np.int64) for each in (output, *baselines)]
    here, pool = counts[0], sum(counts[1:], np.zeros(len(reasons), np.int64))
    if min(here.sum(), pool.sum()) < FEW_ROWS:
        return None
    cuts = [each.counts.reasons["length"] / each.counts.reasons.total() for each in baselines if each.counts.reasons]
    cut = output.counts.reasons["length"] / output.counts.reasons.total()
    return Test(
        p_value=same_shares(here, pool)[0],
        size=float(np.abs(here / here.sum() - pool / pool.sum()).sum() / 2),
        smallest=_SHARE,
        is_usual=is_usual(cut, cuts),
    )


def _labels(
    output: Measured, baselines: Sequence[Measured], same: Mapping[str, Sequence[bool]]
) -> dict[str, LabelShares]:
    found = {}
    for question, answers in output.counts.answers.items():
        is_same = same.get(question) or [True] * len(baselines)
        others = [each.counts.answers.get(question, AnswerCounts()) for each in baselines]
        chosen = [each for each, is_one in zip(others, is_same, strict=True) if is_one]
        is_other = bool(others) and not chosen
        found[question] = compare_labels(answers, others if is_other else chosen, is_other=is_other, few=FEW_ROWS)
    return found


def _ordered(keys: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The keys of figures in the order of the page: those of a question together, where the first one stands."""
    questions = list(dict.fromkeys(question for name, question in keys if name in OF_QUESTIONS))
    names = list(FIGURES)
    ordered: list[tuple[str, str]] = []
    for name in names:
        if name == OF_QUESTIONS[0]:
            ordered += [(each, question) for question in questions for each in OF_QUESTIONS]
        elif name not in OF_QUESTIONS:
            ordered.append((name, ""))
    known = set(keys)
    return [key for key in ordered if key in known]
