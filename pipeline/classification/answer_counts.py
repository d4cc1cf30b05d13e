"""Counts of the answers in an output: labels, abstentions, confidences, and answers against gold labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tirazh.pipeline import schema
from tirazh.pipeline.classification.questions import Question
from tirazh.pipeline.column_values import values_of
from tirazh.pipeline.input.schemas.arrow_types import to_transport

# The confidences from 0 to 1 are counted in so many ranges of equal width; 1 belongs to the last one.
CONFIDENCE_BINS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerColumns:
    """The names of the columns of the answers to a question, with the prefix of the job.

    `question` is its name, empty in a job that asks one without a name. `labels` and `abstained` are None where the job
    does not write them.
    """

    question: str
    label: str
    confidence: str
    probabilities: str
    labels: str | None = None
    abstained: str | None = None
    none_label: str | None = None
    gold_column: str | None = None

    @property
    def by_field(self) -> dict[str, str]:
        """The columns that exist, by the names that `schema.py` gives them in a decision."""
        names = (schema.CHOICE, schema.CONFIDENCE, schema.PROBABILITIES, schema.LABELS, schema.ABSTAINED)
        columns = (self.label, self.confidence, self.probabilities, self.labels, self.abstained)
        return {name: column for name, column in zip(names, columns, strict=True) if column is not None}

    @property
    def counted(self) -> list[str]:
        """The columns that `count_answers` reads."""
        more = [self.probabilities] if self.none_label is not None else []
        return [*([self.gold_column] if self.gold_column is not None else []), self.label, self.confidence, *more]


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerCounts:
    """Counts of the answers to one question in some rows; rows with an error are not counted.

    `labels` counts the rows of every label; rows that abstained are counted under "". `confusion` counts rows by
    (gold label, label) for `gold_column`; a row that abstained has the label "", or the none label if that was its most
    likely one. `confidences` counts the rows by confidence, in `CONFIDENCE_BINS` ranges, and `none_label` the rows that
    abstained because of the none label; both are unknown (None, 0) in a receipt of an earlier version.
    """

    labels: dict[str, int] = field(default_factory=dict)
    gold_column: str | None = None
    confusion: list[tuple[str, str, int]] = field(default_factory=list)
    confidence_sum: float = 0.0
    confidences: list[int] | None = None
    none_label: int = 0


def columns_of_answers(settings: Mapping[str, Any]) -> tuple[AnswerColumns, ...]:
    """The columns of the answers of a classify job, from the values of its spec or of its identity."""
    asked: Mapping[str, Any] = settings.get("questions") or {"": settings}
    return tuple(_columns_of(question, values, settings) for question, values in asked.items())


def _columns_of(name: str, values: Mapping[str, Any], settings: Mapping[str, Any]) -> AnswerColumns:
    prefix, question = settings.get("prefix") or "", Question(name=name, labels=())
    is_decision, is_multi = settings.get("shape") == "decision", settings.get("multi_label") is not None
    return AnswerColumns(
        question=name,
        label=prefix + question.column(schema.CHOICE if is_decision else schema.LABEL),
        confidence=prefix + question.column(schema.CONFIDENCE),
        probabilities=prefix + question.column(schema.PROBABILITIES),
        labels=prefix + question.column(schema.LABELS) if is_multi else None,
        abstained=prefix + question.column(schema.ABSTAINED) if is_decision else None,
        none_label=values.get("none_label"),
        gold_column=values.get("gold_column"),
    )


def count_answers(table: pa.Table, columns: AnswerColumns, is_good: Sequence[bool]) -> AnswerCounts:
    """Count the answers to a question in the rows of an output. `is_good` says which rows have no error.

    Raises ValueError for probabilities that no job has written, and KeyError for a column that is missing.
    """
    good: Any = pa.array(is_good, pa.bool_())
    # Arrow filters no string views, which polars writes and a part may have.
    rows = to_transport(table.select(columns.counted)).filter(good)
    labels = [label or "" for label in rows.column(columns.label).to_pylist()]
    confidences = rows.column(columns.confidence).drop_null().to_numpy()
    none_rows = 0
    answers = labels
    if columns.none_label is not None:
        is_none = _is_none_label(rows.column(columns.probabilities), columns.none_label)
        abstained = [label or (columns.none_label if none else "") for label, none in zip(labels, is_none, strict=True)]
        none_rows = sum(not label and bool(none) for label, none in zip(labels, is_none, strict=True))
        answers = abstained
    return AnswerCounts(
        labels=dict(sorted(Counter(labels).items())),
        gold_column=columns.gold_column,
        confusion=_confusion(rows, columns.gold_column, answers) if columns.gold_column is not None else [],
        confidence_sum=float(pc.sum(table.column(columns.confidence)).as_py() or 0),
        confidences=_histogram(confidences),
        none_label=none_rows,
    )


def _is_none_label(probabilities: pa.ChunkedArray[Any], none_label: str) -> NDArray[np.bool_]:
    """Whether the most likely label of each row, the first of equal ones, is the none label."""
    entries: Any = pc.list_flatten(probabilities)
    values = pc.struct_field(entries, schema.PROBABILITY).to_numpy()
    is_none = pc.equal(pc.struct_field(entries, schema.LABEL), pa.scalar(none_label)).to_numpy()
    sizes = {size for size in pc.list_value_length(probabilities).unique().to_pylist() if size is not None}
    has_entries = np.asarray(probabilities.is_valid().to_numpy(), np.bool_)
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(f"its rows have lists of {' and '.join(map(str, sorted(sizes)))} probabilities")
    found = np.zeros(len(probabilities), np.bool_)
    if sizes:
        shape = (-1, sizes.pop())
        winners = values.reshape(shape).argmax(axis=1)
        found[has_entries] = is_none.reshape(shape)[np.arange(len(winners)), winners].astype(np.bool_)
    return found


def _histogram(confidences: NDArray[np.float32]) -> list[int]:
    # The borders are rounded as the confidences are: 0.7 belongs to the range that begins with it.
    borders = (np.arange(1, CONFIDENCE_BINS) / CONFIDENCE_BINS).astype(np.float32)
    bins = np.searchsorted(borders, confidences[np.isfinite(confidences)], side="right")
    return [int(count) for count in np.bincount(bins, minlength=CONFIDENCE_BINS)]


def _confusion(rows: pa.Table, gold_column: str, answers: Sequence[str]) -> list[tuple[str, str, int]]:
    golds = values_of(rows.column(gold_column))
    pairs = Counter((gold, answer) for gold, answer in zip(golds, answers, strict=True) if isinstance(gold, str))
    return [(gold, answer, count) for (gold, answer), count in sorted(pairs.items())]
