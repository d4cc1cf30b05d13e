"""Prior correction: probabilities for other shares of the labels than those behind the scores.

With p(l) the probability of a label, s(l) its share behind the scores and t(l) the share that is expected, the
corrected probability is proportional to p(l) t(l) / s(l) (Saerens, Latinne and Decaestecker 2002).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tirazh.errors import InputError, RequestError, did_you_mean
from tirazh.pipeline import schema
from tirazh.pipeline.input.texts import BrokenText, values_of

BALANCED = "balanced"
COLUMN = "column:"
SHARE = "share"
# By how much the shares of all labels together may differ from 1.
_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class Priors:
    """The correction for L labels: `source` are the shares behind the scores, `target` those that are expected.

    With `column` each row has its own expected shares, in that column of the input, and `target` is empty.
    """

    source: tuple[float, ...]
    target: tuple[float, ...]
    column: str | None = None

    def correct(
        self, probabilities_NL: NDArray[np.float64], shares_NL: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """The corrected probabilities [N, L]; NaN for a row all of whose labels get the probability 0.

        `shares_NL` are the expected shares of every row; without them they are `target`.
        """
        expected = np.array([self.target]) if shares_NL is None else shares_NL
        weights = probabilities_NL * (expected / np.array(self.source))
        with np.errstate(invalid="ignore"):
            return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def column_of(value: Any) -> str | None:
    """The column that the setting `priors` names, or None if it names none."""
    return value.removeprefix(COLUMN) if isinstance(value, str) and value.startswith(COLUMN) else None


def check_priors(value: Any, labels: Sequence[str]) -> None:
    """Raise RequestError for a value of the setting `priors` that is neither `balanced` nor `column:NAME` nor shares
    of all labels."""
    if value is None or value == BALANCED or column_of(value):
        return
    if not isinstance(value, Mapping):
        hint = did_you_mean(str(value), [BALANCED, f"{COLUMN}NAME"])
        raise RequestError(
            f"--priors must be {BALANCED}, {COLUMN}NAME, or a YAML or JSON file {{label: share}}, not {value!r}{hint}"
        )
    problem = _problem(value, labels)
    if problem is not None:
        raise RequestError(f"--priors {problem}")


def make_priors(value: Any, labels: Sequence[str], *, source: Sequence[float] | None = None) -> Priors | None:
    """The correction that the setting `priors` asks for; None without it.

    `source` are the shares of the labels in the sample of a fitted calibration; the scores of a model alone are taken
    for those of equal shares. Raises RequestError for a label of which that sample has no row.
    """
    if value is None:
        return None
    equal = (1 / len(labels),) * len(labels)
    behind = equal if source is None else tuple(map(float, source))
    for label, share in zip(labels, behind, strict=True):
        if not share > 0:
            raise RequestError(
                f"--priors cannot be used with this calibration: its sample has no row of the label {label!r}"
            )
    column = column_of(value)
    if column is not None:
        return Priors(behind, (), column)
    return Priors(behind, equal if value == BALANCED else tuple(float(value[label]) for label in labels))


def check_shares_column(columns: pa.Schema, name: str, labels: Sequence[str]) -> None:
    """Raise InputError for a column of shares that is missing or has a type that holds none."""
    if name not in columns.names:
        raise InputError(f"--priors: the input has no column {name!r}{did_you_mean(name, columns.names)}")
    kind = columns.field(name).type
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_struct(plain):
        fields = [plain.field(index).name for index in range(plain.num_fields)]
        missing = [label for label in labels if label not in fields]
        if missing:
            raise InputError(f"--priors: the structs of column {name!r} have no field {missing[0]!r}")
        return
    has_entries = pa.types.is_list(plain) or pa.types.is_large_list(plain) or pa.types.is_map(plain)
    is_text = pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain)
    if not (has_entries or is_text or isinstance(plain, pa.JsonType)):
        raise InputError(
            f"--priors: column {name!r} has the type {kind}; it must be a map, a struct, a list of structs with "
            f"{schema.LABEL} and {SHARE}, or a JSON text"
        )


def read_shares(column: pa.ChunkedArray[Any], labels: Sequence[str]) -> tuple[NDArray[np.float64], list[str | None]]:
    """Return the expected shares of every row [N, L], and what is wrong with the row's value, None if nothing is.

    The value is a map, a struct, a list of structs with `label` and `share`, or a JSON text of one of these. A row with
    something wrong has the share 1 of every label.
    """
    values = values_of(column)
    shares = np.ones((len(values), len(labels)))
    problems: list[str | None] = [None] * len(values)
    for row, value in enumerate(values):
        try:
            found = _mapping(value)
        except ValueError as error:
            problems[row] = str(error)
            continue
        problems[row] = _problem(found, labels)
        if problems[row] is None:
            shares[row] = [found[label] for label in labels]
    return shares, problems


def _mapping(value: Any) -> Mapping[Any, Any]:
    """The shares as a mapping. Raises ValueError with the rest of a sentence about the column."""
    if value is None:
        raise ValueError("is null")
    if isinstance(value, BrokenText):
        raise ValueError(value.reason)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("is not JSON") from None
    if isinstance(value, Mapping):
        return value
    try:
        pairs = [(pair[schema.LABEL], pair[SHARE]) if isinstance(pair, Mapping) else tuple(pair) for pair in value]
        found = dict(pairs)
    except (TypeError, ValueError, KeyError):
        raise ValueError("has no shares of labels") from None
    if len(found) < len(pairs):
        raise ValueError("names a label twice")
    return found


def _problem(shares: Mapping[Any, Any], labels: Sequence[str]) -> str | None:
    """What is wrong with shares, as the rest of a sentence; None if nothing is."""
    known = frozenset(labels)
    unknown = next((name for name in shares if name not in known), None)
    if unknown is not None:
        return f"has a share of {unknown!r}, which is none of the labels{did_you_mean(str(unknown), labels)}"
    for label in labels:
        if label not in shares:
            return f"has no share of the label {label!r}"
        share = shares[label]
        if isinstance(share, bool) or not isinstance(share, int | float | Decimal) or not 0 <= share < math.inf:
            return f"has the share {share!r} of the label {label!r}; it must be a number of 0 or more"
    total = math.fsum(shares[label] for label in labels)
    return None if abs(total - 1) <= _TOLERANCE else f"has shares that sum to {total:.4g}, not to 1"
