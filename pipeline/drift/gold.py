"""Accuracy of an output against its gold labels, as its manifest or `tirazh evaluate` found it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tirazh.pipeline import schema
from tirazh.pipeline.drift.counts import NOTHING, Moments
from tirazh.pipeline.evaluation.confusion import macro_f1, matrix_of_cells
from tirazh.pipeline.gold.finished import FinishedOutput
from tirazh.pipeline.output.report import read_evaluations
from tirazh.pipeline.report.answers import answers_of
from tirazh.pipeline.report.evaluation_section import rows_id

Cells = tuple[tuple[str, str | None, int], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldFigures:
    """`right` of `rows` rows with a gold label have it as their label; a row that abstained is wrong.

    `macro_f1` is None if it is not known, and `cells`, the (gold label, label, rows), are empty then. `answers` and
    `answers_right` are the confidences of these rows and how many of them are right, if `tirazh evaluate` counted
    them.
    """

    rows: int
    right: int
    macro_f1: float | None
    cells: Cells = ()
    answers: Moments = NOTHING
    answers_right: int = 0

    @property
    def accuracy(self) -> float:
        """The share of right rows."""
        return self.right / self.rows


def gold_of(found: FinishedOutput) -> dict[str, GoldFigures]:
    """The figures of every question that has gold labels.

    Those of `tirazh evaluate` count, if they are about the present rows; else those of the job's gold column.
    """
    figures = {name: _of_manifest(facts) for name, facts in answers_of(found.manifest).items()}
    now = rows_id(found.manifest)
    for each in read_evaluations(found.files):
        if each.get("rows_id") == now:
            figures[str(each.get("question") or "")] = _of_evaluation(each)
    return {name: each for name, each in figures.items() if each is not None}


def pooled_gold(figures: Sequence[GoldFigures]) -> GoldFigures | None:
    """The figures of several outputs together; None without any."""
    if not figures:
        return None
    cells = tuple(cell for each in figures for cell in each.cells)
    f1 = figures[0].macro_f1 if len(figures) == 1 else None
    if len(figures) > 1 and all(each.cells for each in figures):
        # By the gold labels alone, as in a manifest.
        labels = sorted({name for gold, label, _ in cells for name in (gold, label) if name})
        f1 = macro_f1(matrix_of_cells(labels, cells)[0])
    return GoldFigures(
        rows=sum(each.rows for each in figures),
        right=sum(each.right for each in figures),
        macro_f1=f1,
        cells=cells,
        answers=sum((each.answers for each in figures), NOTHING),
        answers_right=sum(each.answers_right for each in figures),
    )


def _of_manifest(facts: Mapping[str, Any]) -> GoldFigures | None:
    rows, accuracy = facts.get("gold_rows"), facts.get("accuracy")
    if not rows or accuracy is None:
        return None
    cells = tuple((str(gold), label, int(count)) for gold, label, count in facts.get("confusion") or ())
    return GoldFigures(rows=int(rows), right=round(accuracy * rows), macro_f1=facts.get("macro_f1"), cells=cells)


def _of_evaluation(values: Mapping[str, Any]) -> GoldFigures | None:
    try:
        rows = int(values["rows"])
        names = ("rows", schema.CONFIDENCE, "accuracy")
        bins = [tuple(float(each[name]) for name in names) for each in values["reliability"] if each["rows"]]
        answers = Moments(
            rows=round(math.fsum(count for count, _, _ in bins)),
            sum=math.fsum(count * mean for count, mean, _ in bins),
            variance=math.fsum(count * mean * (1 - mean) for count, mean, _ in bins),
        )
        return GoldFigures(
            rows=rows,
            right=round(values["accuracy_abstained_wrong"] * rows),
            macro_f1=float(values["macro_f1"]),
            cells=tuple((str(gold), label, int(count)) for gold, label, count in values["confusion"]),
            answers=answers,
            answers_right=round(math.fsum(count * share for count, _, share in bins)),
        )
    except (KeyError, TypeError, ValueError):  # a file of a later version
        return None
