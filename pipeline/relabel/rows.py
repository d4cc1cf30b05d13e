"""Makes the answers of rows again from their stored probabilities."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tirazh.errors import RequestError
from tirazh.pipeline import schema
from tirazh.pipeline.classification.answers import AnswerLayout, answer_columns
from tirazh.pipeline.gold.answers import StoredAnswers, probabilities_of

# In place of the logarithm of 0: its exponential is 0 again, and it is a finite score.
_LOG_OF_ZERO = -1e4


class StoredProbabilities:
    """Takes the place of a calibration: logarithms of probabilities become these probabilities again."""

    label_shares: tuple[float, ...] = ()

    def apply(self, logprobs_NL: NDArray[np.float64]) -> NDArray[np.float64]:
        """The probabilities, float64 [N, L]."""
        return np.exp(logprobs_NL)


@dataclass(frozen=True, kw_only=True)
class Change:
    """How the answers to one question are made again.

    `columns` are those of the stored answers, `layout` has the new threshold and calibration; without a calibration the
    probabilities stay as they are stored.
    """

    columns: StoredAnswers
    layout: AnswerLayout

    @property
    def is_calibrated(self) -> bool:
        """Whether the probabilities change."""
        return self.layout.calibration is not None


def relabel_rows(table: pa.Table, change: Change) -> pa.Table:
    """Return a part's table with the answers to one question made again; the other columns are the same.

    Raises RequestError for rows that do not have the probabilities that this needs.
    """
    logprobs_NL = stored_logprobs(table, change.columns, needs_all=change.is_calibrated or bool(change.layout.levels))
    layout = change.layout if change.is_calibrated else replace(change.layout, calibration=StoredProbabilities())
    assert change.columns.error is not None
    rows = pa.table({schema.LABEL_LOGPROBS: _lists(logprobs_NL), schema.ROW_ERROR: table.column(change.columns.error)})
    made = answer_columns(rows, (replace(layout, priors=None),))[:-1]
    stem = (change.columns.confidence or "").removesuffix(schema.CONFIDENCE)
    own = schema.answer_fields(as_decision=layout.shape == "decision", multi_label=layout.multi_label is not None)
    names = [change.columns.label, *(stem + field.name for field in own[1:])]
    stays = () if change.is_calibrated else (stem + schema.PROBABILITIES, stem + schema.LABELS)
    for name, column in zip(names, made, strict=True):
        if name not in stays:
            place = table.column_names.index(name)
            table = table.set_column(place, table.schema.field(place), column.cast(table.schema.field(place).type))
    return table


def stored_logprobs(table: pa.Table, columns: StoredAnswers, *, needs_all: bool) -> NDArray[np.float64]:
    """The logarithms of the stored probabilities, float64 [N, L]; NaN for rows with an error.

    A label that is not stored, as with --top, counts as 0. Raises RequestError if `needs_all` labels of each row.
    """
    assert columns.error is not None
    chances_NL = probabilities_of(table, columns)
    failed = table.column(columns.error).is_valid().to_numpy()
    missing = np.isnan(chances_NL)
    if needs_all and missing[~failed].any():
        stored = int((~missing[~failed]).sum(axis=1).min())
        raise RequestError(
            f"the output has the probabilities of only {stored} of its {chances_NL.shape[1]} labels in a row, because "
            "of --top; this needs all of them, so run its job without --top"
        )
    with np.errstate(divide="ignore"):
        logs = np.maximum(np.log(np.where(missing, 0.0, chances_NL)), _LOG_OF_ZERO)
    logs[failed] = np.nan
    return logs


def _lists(logprobs_NL: NDArray[np.float64]) -> pa.Array[Any]:
    rows, labels = logprobs_NL.shape
    offsets: Any = pa.array(np.arange(rows + 1) * labels, pa.int64())
    values = pa.array(np.nan_to_num(logprobs_NL, nan=_LOG_OF_ZERO).ravel())
    return pa.LargeListArray.from_arrays(offsets, values)
