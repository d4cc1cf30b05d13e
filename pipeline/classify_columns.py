"""The columns of a classify job, from its spec: those that it reads, and those of its answers and how they are made."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from tirazh.pipeline import schema
from tirazh.pipeline.classification.answers import AnswerLayout, Calibration, shares_of
from tirazh.pipeline.classification.priors import check_shares_column, column_of, make_priors
from tirazh.pipeline.input.footers import check_text_column
from tirazh.pipeline.spec import ClassifySpec


def check_classify_columns(columns: pa.Schema, spec: ClassifySpec) -> None:
    """Raise InputError for a column that the job reads and that is missing or has the wrong type."""
    check_text_column(columns, spec.text_column, flag="--text-column")
    for question in spec.asked:
        flag = f"--questions {question.name}: gold_column" if question.name else "--gold-column"
        if question.gold_column is not None:
            check_text_column(columns, question.gold_column, flag=flag)
    shares = column_of(spec.priors)
    if shares is not None:
        check_shares_column(columns, shares, [label.name for question in spec.asked for label in question.labels])


def classify_fields(spec: ClassifySpec) -> list[pa.Field[Any]]:
    """The columns that the job adds, in order, without its prefix: those of each question, then those of the row."""
    own = schema.answer_fields(as_decision=spec.shape == "decision", multi_label=spec.multi_label is not None)
    answers = [field.with_name(question.column(field.name)) for question in spec.asked for field in own]
    return [*answers, *schema.row_fields()]


def answer_layouts(
    spec: ClassifySpec, *, calibration: Calibration | None = None, threshold: float | None = None
) -> tuple[AnswerLayout, ...]:
    """How each question of the job is answered.

    `calibration` is the fitted calibration that the job names, and `threshold` the confidence that --target-error
    needs; a job with one of them has one question. Raises RequestError for priors that do not fit the calibration.
    """
    return tuple(
        AnswerLayout(
            labels=names,
            threshold=question.abstain_below if threshold is None else threshold,
            none_label=question.none_label,
            shape=spec.shape,
            multi_label=spec.multi_label,
            top=spec.top,
            priors=make_priors(spec.priors, names, source=shares_of(calibration, names)),
            calibration=calibration,
        )
        for question in spec.asked
        for names in [tuple(label.name for label in question.labels)]
    )
