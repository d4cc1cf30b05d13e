"""Numbers the rows of equal content in the whole input, so that each of them draws its own random numbers.

The content of a row are its values in the columns that the prompt uses. Its repetition is the number of rows
before it, in the order of the input, with the same content: 0 for a row whose content is unique. Content and
repetition are all that a row's random numbers depend on besides the seed of the job, so they stay the same when
files are renamed, moved, split, joined, written with other row groups or listed in another way. In another order of
the input, rows of equal content may exchange their numbers with each other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tirazh.pipeline.column_values import values_of
from tirazh.pipeline.input.parts import Part

_THREADS = 2  # each holds the texts of a part


def content_of(values: Iterable[Any]) -> str:
    """The content of a row as a text. Rows whose values differ as texts have different ones; null is no text."""
    texts = [None if value is None else _text(value) for value in values]
    return "".join("-" if text is None else f"{len(text)}:{text}" for text in texts)


def _text(value: Any) -> str:
    """The text of a value; that of a list or struct depends not on the order of its fields."""
    if isinstance(value, list | dict):
        return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=str)
    return str(value)


def count_repetitions(
    parts: Sequence[Part], columns: Sequence[str], read: Callable[[Part], pa.Table]
) -> dict[int, NDArray[np.int32]]:
    """The repetition of every row, by the index of its part; parts in which all are 0 are left out.

    `parts` are all parts from the beginning of the input, in its order, `columns` those of the content, and
    `read` returns them for a part. Every part is read once; about 40 bytes a row are held.
    """
    with ThreadPoolExecutor(_THREADS) as threads:
        hashes = list(threads.map(lambda part: _hashes(read(part), columns), parts))
    numbers = number_equal(np.concatenate(hashes)) if hashes else None
    if numbers is None:
        return {}
    ends = np.cumsum([part.rows for part in parts])
    by_part = zip(parts, np.split(numbers, ends[:-1]), strict=True)
    return {part.index: own.copy() for part, own in by_part if own.any()}


def number_equal(values_N: NDArray[np.int64]) -> NDArray[np.int32] | None:
    """For every value the number of earlier values that are equal, shape [N]; None if no two are equal."""
    ordered_N = np.sort(values_N)
    repeated_R = np.unique(ordered_N[1:][ordered_N[1:] == ordered_N[:-1]])
    del ordered_N
    if not repeated_R.size:
        return None
    place_N = np.minimum(np.searchsorted(repeated_R, values_N), len(repeated_R) - 1)
    rows_M = np.flatnonzero(repeated_R[place_N] == values_N)
    group_M = place_N[rows_M]
    order_M = np.argsort(group_M, kind="stable")
    counts_R = np.bincount(group_M, minlength=len(repeated_R))
    first_R = np.cumsum(counts_R) - counts_R
    numbers_N = np.zeros(len(values_N), np.int32)
    numbers_N[rows_M[order_M]] = np.arange(len(rows_M)) - np.repeat(first_R, counts_R)
    return numbers_N


def _hashes(table: pa.Table, columns: Sequence[str]) -> NDArray[np.int64]:
    """A hash of the content of every row, valid in this process only."""
    # Python's own hash of a text takes a tenth of the time of a cryptographic one. Two contents of one hash (once in
    # 10^6 inputs of 10^7 rows) would be numbered together, and still draw different random numbers.
    values = [[None if value is None else _text(value) for value in values_of(table.column(name))] for name in columns]
    return np.fromiter(map(hash, zip(*values, strict=True)), np.int64, table.num_rows)
