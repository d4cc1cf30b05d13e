"""Makes the columns of a job's answers from the scores of the labels, for the rows of a part together.

For each question: the scores become probabilities (softmax, or a fitted calibration), the priors correct them, they are
rounded to float32, and the decision follows from what is then written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tirazh.pipeline import schema
from tirazh.pipeline.classification.decide import by_probability, choose_several, decide, softmax
from tirazh.pipeline.classification.levels import Levels
from tirazh.pipeline.classification.priors import Priors, read_shares

# Rows are taken together as far as their labels are not more than this.
_CHUNK_ENTRIES = 1 << 20
_NOT_FINITE = "the scores of the labels are not finite"


class Calibration(Protocol):
    """A fitted calibration of the probabilities of one set of labels.

    `label_shares` are the shares of the labels in the sample that it was fitted on, in the order of the labels.
    """

    @property
    def label_shares(self) -> Sequence[float]: ...

    def apply(self, logprobs_NL: NDArray[np.float64]) -> NDArray[np.float64]:
        """The probabilities [N, L] for scores [N, L], natural logarithms that are not normalised."""
        ...


@dataclass(frozen=True, kw_only=True)
class AnswerLayout:
    """How one question is answered.

    `labels` are the names of its labels, in the order of their scores. A row abstains if the probability of its most
    likely label is below `threshold`, or if that label is `none_label`. `shape` chooses the columns; `multi_label` is
    the least probability of a label in the column `labels`, None without it; `top` the number of entries in the column
    `probabilities`, None for all labels in their order.
    """

    labels: tuple[str, ...]
    threshold: float = 0.0
    none_label: str | None = None
    shape: Literal["plain", "decision"] = "plain"
    multi_label: float | None = None
    top: int | None = None
    priors: Priors | None = None
    calibration: Calibration | None = None

    @cached_property
    def levels(self) -> Levels | None:
        """The levels above the labels."""
        return Levels.of(self.labels)

    @cached_property
    def names(self) -> pa.Array[Any]:
        """The names that an answer may have: those of the labels, then those of the levels above them."""
        return pa.array([*self.labels, *(self.levels.names if self.levels else ())], pa.string())

    @property
    def none_index(self) -> int | None:
        """The index of the none label."""
        return None if self.none_label is None else self.labels.index(self.none_label)


def answer_columns(table: pa.Table, layouts: Sequence[AnswerLayout]) -> list[pa.ChunkedArray[Any]]:
    """The columns of the answers to all questions, then the column of the errors of the rows.

    `table` has the scores of the labels of all questions (`schema.LABEL_LOGPROBS`), the errors so far and the columns
    of the input. The columns of an answer are those of `schema.answer_fields`. A row with an error has no answer:
    one that had it already, or whose scores are not finite or shares of labels cannot be used.
    """
    width = sum(len(layout.labels) for layout in layouts)
    rows = max(1, _CHUNK_ENTRIES // max(1, width))
    made = [_answer_rows(table.slice(start, rows), layouts) for start in range(0, max(1, table.num_rows), rows)]
    return [pa.chunked_array(list(chunks)) for chunks in zip(*made, strict=True)]


def _answer_rows(table: pa.Table, layouts: Sequence[AnswerLayout]) -> list[pa.Array[Any]]:
    errors = table.column(schema.ROW_ERROR).combine_chunks()
    scores: Any = table.column(schema.LABEL_LOGPROBS).combine_chunks()
    has_scores = np.logical_and(_is_valid(scores), ~_is_valid(errors))
    rows = np.flatnonzero(has_scores)
    width = sum(len(layout.labels) for layout in layouts)
    given = scores.filter(pa.array(has_scores)).flatten().to_numpy(zero_copy_only=False).reshape(len(rows), width)
    problems: dict[int, str] = {}
    for row in np.flatnonzero(~np.isfinite(given).all(axis=1)):
        problems[int(row)] = _NOT_FINITE
    given = np.where(np.isfinite(given), given, 0.0)
    found, first = [], 0
    for layout in layouts:
        scores_NL = given[:, first : first + len(layout.labels)]
        found.append(_probabilities(scores_NL, layout, table, rows, problems))
        first += len(layout.labels)
    is_good = np.ones(len(rows), np.bool_)
    is_good[list(problems)] = False
    has_answer = np.zeros(table.num_rows, np.bool_)
    has_answer[rows[is_good]] = True
    columns = [
        column
        for layout, probabilities in zip(layouts, found, strict=True)
        for column in _columns(probabilities[is_good], layout, has_answer)
    ]
    if problems:
        texts: list[Any] = errors.to_pylist()
        for index, problem in problems.items():
            texts[rows[index]] = problem
        errors = pa.array(texts, pa.string())
    return [*columns, errors]


def _probabilities(
    scores_NL: NDArray[np.float64],
    layout: AnswerLayout,
    table: pa.Table,
    rows: NDArray[np.int64],
    problems: dict[int, str],
) -> NDArray[np.float32]:
    """The probabilities of one question [N, L]; `problems` receives what is wrong with some of the N rows."""
    probabilities = softmax(scores_NL) if layout.calibration is None else layout.calibration.apply(scores_NL)
    if layout.priors is not None:
        shares = None
        if layout.priors.column is not None:
            shares, wrong = read_shares(table.column(layout.priors.column).take(_indices(rows)), layout.labels)
            for index, problem in enumerate(wrong):
                if problem is not None:
                    problems.setdefault(index, f"column {layout.priors.column!r} {problem}")
        probabilities = layout.priors.correct(probabilities, shares)
    for row in np.flatnonzero(~np.isfinite(probabilities).all(axis=1)):
        reason = "the priors leave no label a probability" if layout.priors is not None else _NOT_FINITE
        problems.setdefault(int(row), reason)
    return probabilities.astype(np.float32)


def _columns(
    probabilities_NL: NDArray[np.float32], layout: AnswerLayout, has_answer: NDArray[np.bool_]
) -> list[pa.Array[Any]]:
    """The columns of one question; row by row, `probabilities_NL` are those of the rows that have an answer."""
    decided = decide(probabilities_NL, threshold=layout.threshold, none_index=layout.none_index, levels=layout.levels)
    is_decision, is_multi = layout.shape == "decision", layout.multi_label is not None
    order = by_probability(probabilities_NL) if is_multi or layout.top is not None else None
    columns = [
        layout.names.take(_spread(decided.chosen, has_answer, also_null=decided.chosen < 0)),
        _spread(decided.confidence, has_answer),
        _entries(probabilities_NL, layout, order, has_answer),
    ]
    if layout.multi_label is not None and order is not None:
        chosen = choose_several(probabilities_NL, least=layout.multi_label, none_index=layout.none_index)
        in_order = np.take_along_axis(chosen, order, axis=1)
        columns.append(_lists(layout.names.take(_indices(order[in_order])), in_order.sum(axis=1), has_answer))
    return [*columns, _spread(decided.chosen < 0, has_answer)] if is_decision else columns


def _entries(
    probabilities_NL: NDArray[np.float32],
    layout: AnswerLayout,
    order: NDArray[np.int64] | None,
    has_answer: NDArray[np.bool_],
) -> pa.Array[Any]:
    """The column `probabilities`, made from buffers: as Python objects a thousand labels would take a hundred times
    the memory."""
    count, size = probabilities_NL.shape
    kept = size if layout.top is None else min(layout.top, size)
    if layout.top is None or order is None:
        index, values = np.tile(np.arange(size), count), probabilities_NL
    else:
        index = order[:, :kept].ravel()
        values = np.take_along_axis(probabilities_NL, order[:, :kept], axis=1)
    fields: list[Any] = [layout.names.take(_indices(index)), pa.array(values.ravel(), pa.float32())]
    entries = pa.StructArray.from_arrays(fields, [schema.LABEL, schema.PROBABILITY])
    return _lists(entries, np.full(count, kept), has_answer)


def _lists(values: pa.Array[Any], sizes: NDArray[np.int64], has_answer: NDArray[np.bool_]) -> pa.Array[Any]:
    """A column of lists of `sizes` values each; null for rows without an answer."""
    all_sizes = np.zeros(len(has_answer) + 1, np.int64)
    all_sizes[1:][has_answer] = sizes
    offsets: Any = pa.array(np.cumsum(all_sizes), pa.int32())
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(~has_answer))


def _spread(
    values: NDArray[Any], has_answer: NDArray[np.bool_], *, also_null: NDArray[np.bool_] | None = None
) -> pa.Array[Any]:
    """A column of the values of the rows with an answer; null for the others, and where `also_null` is true."""
    whole = np.zeros(len(has_answer), values.dtype)
    whole[has_answer] = values
    is_null = ~has_answer
    if also_null is not None:
        is_null[has_answer] = also_null
    return pa.array(whole, mask=is_null)


def _indices(numbers: NDArray[np.int64]) -> pa.Array[Any]:
    return pa.array(numbers, pa.int64())


def _is_valid(column: pa.Array[Any]) -> NDArray[np.bool_]:
    return np.asarray(column.is_valid().to_numpy(zero_copy_only=False), np.bool_)


def shares_of(calibration: Any, labels: Sequence[str]) -> Sequence[float] | None:
    """The shares of the labels in the sample of a fitted calibration, in the order of the labels; None without one."""
    if calibration is None:
        return None
    shares = calibration.label_shares
    return [shares[label] for label in labels] if isinstance(shares, Mapping) else list(shares)
