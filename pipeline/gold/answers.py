"""The columns of an output that hold a job's answers, and their values as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tirazh.errors import InputError, RequestError, did_you_mean
from tirazh.pipeline import schema
from tirazh.pipeline.classification.answer_counts import AnswerColumns, columns_of_answers
from tirazh.pipeline.evaluation.predictions import Predictions
from tirazh.pipeline.input.schemas.arrow_types import is_text
from tirazh.pipeline.label_levels import levels_above


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredAnswers:
    """The answers to one question in the columns of an output.

    `labels` are the names of the question's labels, `columns` those that a job writes for it. The columns in `present`
    exist in this output.
    """

    labels: tuple[str, ...]
    columns: AnswerColumns
    error_column: str
    present: frozenset[str]

    @property
    def label(self) -> str:
        """The column of the label."""
        return self.columns.label

    @property
    def none_label(self) -> int | None:
        """The index of the label that means none of the others, if the question has one."""
        name = self.columns.none_label
        return self.labels.index(name) if name in self.labels else None

    @property
    def error(self) -> str | None:
        """The column of errors, None if the output has none; so are the next ones."""
        return self._known(self.error_column)

    @property
    def confidence(self) -> str | None:
        """The column of confidences."""
        return self._known(self.columns.confidence)

    @property
    def probabilities(self) -> str | None:
        """The column of probabilities."""
        return self._known(self.columns.probabilities)

    @property
    def abstained(self) -> str | None:
        """The column that says which rows abstained."""
        return self._known(self.columns.abstained)

    @property
    def names(self) -> list[str]:
        """The columns that there are."""
        names = (self.label, self.error, self.confidence, self.probabilities, self.abstained)
        return [name for name in names if name is not None]

    def _known(self, name: str | None) -> str | None:
        return name if name in self.present else None


def find_answers(spec: Mapping[str, Any], columns: pa.Schema, question: str | None) -> StoredAnswers:
    """Find the answers in an output with these columns; `spec` is that of the job in the manifest.

    Raises RequestError if the job has several questions and none of them is named, or an unknown one.
    """
    questions = spec.get("questions") or {}
    settings = _settings_of(questions, question) if questions or question is not None else spec
    known = {each.question: each for each in columns_of_answers(spec)}
    found = StoredAnswers(
        labels=_names_of(settings),
        columns=known[question or ""],
        error_column=(spec.get("prefix") or "") + schema.ERROR,
        present=frozenset(columns.names),
    )
    if found.label not in found.present:
        raise InputError(f"the output has no column {found.label!r} with the labels of the rows")
    if not _is_text(columns.field(found.label).type):
        raise InputError(
            f"column {found.label!r} is of type {columns.field(found.label).type}; rows with several labels cannot be "
            "evaluated"
        )
    return found


def read_answers(table: pa.Table, columns: StoredAnswers, gold: NDArray[np.int64]) -> Predictions:
    """The answers of some rows; `gold` are their gold labels, int64 [N], -1 without one.

    A row with an error has neither an answer nor a gold label. A row whose most likely label means none of the others
    has no label in the output: it answered if this is its gold label, else it abstained. So did a row that was answered
    with a level above the labels. Raises InputError for a label that is none of the job's.
    """
    failed = failed_rows(table, columns)
    best = _codes(table.column(columns.label), columns.labels, columns.label)
    abstained = best < 0
    if columns.abstained is not None:
        given: Any = table.column(columns.abstained)
        abstained |= _booleans(given.fill_null(False))
    chances = None
    if columns.probabilities is not None:
        chances = _probabilities(table.column(columns.probabilities), columns)
        unknown = np.flatnonzero(best < 0)
        known = np.where(np.isnan(chances[unknown]), -1.0, chances[unknown])
        best[unknown] = np.where(known.max(axis=1, initial=-1.0) < 0, -1, known.argmax(axis=1))
    best[failed] = -1
    is_none = np.zeros(table.num_rows, np.bool_)
    if columns.none_label is not None:
        is_none = (best == columns.none_label) & (gold == columns.none_label)
    confidence = np.full(table.num_rows, np.nan)
    if columns.confidence is not None:
        values: Any = table.column(columns.confidence).cast(pa.float64())
        confidence = values.fill_null(np.nan).to_numpy()
    return Predictions(
        labels=columns.labels,
        gold=np.where(failed, -1, gold),
        chosen=np.where(failed | (abstained & ~is_none), -1, best),
        confidence=confidence,
        probabilities=chances,
        winners=best,
    )


def failed_rows(table: pa.Table, columns: StoredAnswers) -> NDArray[np.bool_]:
    """Which rows have an error, bool [N]."""
    if columns.error is None:
        return np.zeros(table.num_rows, np.bool_)
    return _booleans(table.column(columns.error).is_valid())


def probabilities_of(table: pa.Table, columns: StoredAnswers) -> NDArray[np.float64]:
    """The probabilities of the labels in some rows, float64 [N, L]; NaN where a label is not in the list of its row.

    Raises InputError if the output has no such column.
    """
    if columns.probabilities is None:
        raise InputError("the output has no column with the probabilities of the labels")
    return _probabilities(table.column(columns.probabilities), columns)


def codes_of(column: pa.ChunkedArray[Any], labels: Sequence[str]) -> NDArray[np.int64]:
    """The index of each text among `labels`, int64 [N]; -1 for null and -2 for a text that is none of them."""
    texts = column.cast(pa.large_string()).combine_chunks()
    found = pc.index_in(texts, value_set=pa.array(labels, pa.large_string()))
    codes: NDArray[np.int64] = found.cast(pa.int64()).fill_null(-2).to_numpy(zero_copy_only=False).copy()
    codes[~_booleans(texts.is_valid())] = -1
    return codes


def _settings_of(questions: Mapping[str, Any], question: str | None) -> Mapping[str, Any]:
    if question is None:
        raise RequestError(f"the job has several questions; choose one with --question, of {', '.join(questions)}")
    if question not in questions:
        named = f"its questions are {', '.join(questions)}" if questions else "it has a single one without a name"
        raise RequestError(
            f"--question: the job has no question {question!r}{did_you_mean(question, questions) or f'; {named}'}"
        )
    return dict(questions[question])


def _names_of(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the labels in a spec: the keys of a mapping, the texts of a list, or a text with commas."""
    labels = settings.get("labels") or {}
    if isinstance(labels, str):
        labels = [part.strip() for part in labels.split(",") if part.strip()]
    return tuple(dict.fromkeys(map(str, labels)))


def _codes(column: pa.ChunkedArray[Any], labels: Sequence[str], name: str) -> NDArray[np.int64]:
    codes = codes_of(column, labels)
    levels = {level for above in levels_above(labels).values() for level in above}
    if levels:
        codes[(codes == -2) & (codes_of(column, sorted(levels)) >= 0)] = -1
    if (codes == -2).any():
        value = column[int(np.argmax(codes == -2))].as_py()
        raise InputError(f"column {name!r} has the label {value!r}, which is none of the job's labels")
    return codes


def _probabilities(column: pa.ChunkedArray[Any], columns: StoredAnswers) -> NDArray[np.float64]:
    """float64 [N, L] from lists of (label, probability); NaN where a label is not in the list of its row."""
    lists: Any = column.combine_chunks()
    kind = lists.type
    is_known = (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_struct(kind.value_type)
    if not is_known or kind.value_type.num_fields != 2:
        raise InputError(f"column {columns.probabilities!r} is of type {kind}, not a list of labels and probabilities")
    names, values = lists.flatten().flatten()
    codes = _codes(pa.chunked_array([names]), columns.labels, f"{columns.probabilities}")
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    chances = np.full((len(lists), len(columns.labels)), np.nan)
    rows = np.repeat(np.arange(len(lists)), lengths)
    chances[rows, codes] = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return chances


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return is_text(value)


def _booleans(values: Any) -> NDArray[np.bool_]:
    array: NDArray[np.bool_] = (
        values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values.to_numpy()
    )
    return array
