"""Rows that are the same in two outputs and have another label: how many, from which label to which, and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tirazh.pipeline.column_values import BrokenText
from tirazh.pipeline.drift.baselines import NamedOutput
from tirazh.pipeline.drift.read import LabelNumbers, OutputRows
from tirazh.pipeline.drift.row_ids import read_rows, shared_rows, transitions
from tirazh.pipeline.storage.secrets import redact

MOST_EXAMPLES, MOST_TRANSITIONS = 20, 20
_SHOWN_CHARACTERS, _SHOWN_COLUMNS = 400, 4


def changed_rows(
    output: NamedOutput, rows: OutputRows, others: OutputRows, numbers: LabelNumbers, columns: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows of both outputs, for each question, as JSON values; empty if no row is in both.

    A row that is repeated counts once, with its first label. Rows with an error in one of the outputs are left out.
    `columns` identify a row, and are shown of the examples, which are spread evenly over the changed rows.
    """
    here, there = shared_rows(rows.ids, others.ids)
    found = []
    for question in rows.labels:
        if question not in others.labels:
            continue
        after, before = rows.labels[question][here], others.labels[question][there]
        known = (after >= 0) & (before >= 0)
        if known.any():
            pair = (before[known], after[known])
            found.append(_of_question(question, pair, here[known], output, numbers, columns))
    return found


def _of_question(
    question: str,
    labels: tuple[NDArray[np.int32], NDArray[np.int32]],
    places: NDArray[np.int64],
    output: NamedOutput,
    numbers: LabelNumbers,
    columns: Sequence[str],
) -> dict[str, Any]:
    before, after = labels
    changed = np.flatnonzero(before != after)
    return {
        "question": question,
        "shared_rows": len(places),
        "changed": len(changed),
        "share": len(changed) / len(places),
        "transitions": [
            {"before": numbers.name(first), "after": numbers.name(second), "rows": count}
            for first, second, count in transitions(before, after, MOST_TRANSITIONS)
        ],
        "examples": _examples(changed, labels, places, output, numbers, columns),
    }


def _examples(
    changed: NDArray[np.int64],
    labels: tuple[NDArray[np.int32], NDArray[np.int32]],
    places: NDArray[np.int64],
    output: NamedOutput,
    numbers: LabelNumbers,
    columns: Sequence[str],
) -> list[dict[str, Any]]:
    if not len(changed):
        return []
    spread = np.unique(np.linspace(0, len(changed) - 1, min(MOST_EXAMPLES, len(changed))).astype(np.int64))
    chosen = changed[spread]
    values = read_rows(output.found, places[chosen].tolist(), list(columns)[:_SHOWN_COLUMNS])
    return [
        {
            "row": int(places[each]),
            "before": numbers.name(int(labels[0][each])),
            "after": numbers.name(int(labels[1][each])),
            "columns": _shown(row),
        }
        for each, row in zip(chosen, values, strict=True)
    ]


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    """The values of a row as texts of bounded length without control characters."""
    return {name: shown_text(value, _SHOWN_CHARACTERS) for name, value in row.items()}


def shown_text(value: Any, most: int) -> str:
    """A value as a text of at most `most` characters that holds no control characters and no secrets."""
    if value is None or isinstance(value, BrokenText):
        return ""
    text = "".join(
        character if character.isprintable() or character == "\n" else "\ufffd" for character in redact(str(value))
    )
    return text if len(text) <= most else text[:most] + "…"
