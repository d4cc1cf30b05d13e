"""Accuracy and F1 from the confusion matrix alone.

A confusion matrix is int64 [L, L + 1]: rows by gold label and by answer; the last column counts the rows that
abstained.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tirazh.pipeline.label_levels import levels_above

Matrix = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassFigures:
    """One label. `support` counts its gold rows, `predicted` the answers, `right` both.

    `precision` is right/predicted, `recall` right/support, `f1` their harmonic mean; None where the divisor is 0,
    and `f1` also without gold rows.
    """

    label: str
    support: int
    predicted: int
    right: int
    precision: float | None
    recall: float | None
    f1: float | None


def confusion_matrix(gold: NDArray[np.int64], chosen: NDArray[np.int64], num_labels: int) -> Matrix:
    """Count rows with a gold label by (gold, chosen); an answer of -1 is counted in the last column."""
    columns = num_labels + 1
    cells = gold * columns + np.where(chosen < 0, num_labels, chosen)
    counts = np.bincount(cells[gold >= 0], minlength=num_labels * columns)
    return counts.astype(np.int64).reshape(num_labels, columns)


def matrix_of_cells(labels: Sequence[str], cells: Iterable[tuple[str, str | None, int]]) -> tuple[Matrix, int]:
    """Build the matrix from (gold label, answer, rows); an answer of None or "" abstained.

    Returns it and the number of rows whose gold label or answer is none of `labels`; they are in no cell.
    """
    index = {label: number for number, label in enumerate(labels)}
    matrix = np.zeros((len(labels), len(labels) + 1), np.int64)
    unknown = 0
    for gold, answer, rows in cells:
        column = index.get(answer) if answer else len(labels)
        if gold in index and column is not None:
            matrix[index[gold], column] += rows
        else:
            unknown += rows
    return matrix, unknown


def cells_of(labels: Sequence[str], matrix: Matrix) -> list[tuple[str, str | None, int]]:
    """The cells that are not empty as (gold label, answer, rows); the answer is None for rows that abstained."""
    answers = [*labels, None]
    return [(labels[gold], answers[answer], int(matrix[gold, answer])) for gold, answer in np.argwhere(matrix)]


def class_table(labels: Sequence[str], matrix: Matrix) -> tuple[ClassFigures, ...]:
    """The figures of every label, in the order of the labels."""
    support, predicted, right = _sums(matrix)
    return tuple(
        ClassFigures(
            label=label,
            support=int(support[each]),
            predicted=int(predicted[each]),
            right=int(right[each]),
            precision=_ratio(right[each], predicted[each]),
            recall=_ratio(right[each], support[each]),
            f1=_ratio(2 * right[each], support[each] + predicted[each]) if support[each] else None,
        )
        for each, label in enumerate(labels)
    )


def macro_f1(matrix: Matrix) -> float:
    """The mean F1 of the labels that have gold rows; a row that abstained lowers the recall of its gold label.

    It is scikit-learn's `f1_score(average="macro", labels=<labels with gold rows>)`. Raises ValueError for a matrix
    without rows.
    """
    support, predicted, right = _sums(matrix)
    present = support > 0
    if not present.any():
        raise ValueError("no row has a gold label")
    return float(np.mean(2 * right[present] / (support[present] + predicted[present])))


def first_level(labels: Sequence[str], matrix: Matrix) -> tuple[tuple[str, ...], Matrix]:
    """The labels of the first level (`levels_above`), and the matrix with the labels below each put together."""
    tops = [above[0] if above else label for label, above in levels_above(labels).items()]
    names = tuple(dict.fromkeys(tops))
    of_label = np.array([names.index(top) for top in tops], np.int64)
    joined = np.zeros((len(names), len(names) + 1), np.int64)
    answers = np.append(of_label, len(names))
    np.add.at(joined, (of_label[:, None], answers[None, :]), matrix)
    return names, joined


def _sums(matrix: Matrix) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Gold rows, answers and right answers of every label."""
    return matrix.sum(axis=1), matrix[:, :-1].sum(axis=0), np.diagonal(matrix)


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
