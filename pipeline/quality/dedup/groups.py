"""Rows that have the same value: the same text, or the same band of a signature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Groups of at least two rows with the same value.

    `members` are positions, int64, group after group, and ascending in each. `sizes` are their counts, int64.
    """

    members: Positions
    sizes: Positions

    @property
    def first_members(self) -> Positions:
        """For every member the first one of its group, int64 [members]."""
        starts = np.cumsum(self.sizes) - self.sizes
        return np.repeat(self.members[starts], self.sizes)

    @property
    def numbers(self) -> Positions:
        """For every member the number of its group, int64 [members]."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)


def group_rows(values: npt.NDArray[np.uint64], positions: Positions, *, first_own: int = 0) -> Groups:
    """Group the rows at `positions` (int64 [rows], ascending) by `values`, uint64 [rows] or [rows, 2].

    Groups without a position of `first_own` or above are left out.
    """
    columns = values.reshape(len(values), values.shape[1] if values.ndim == 2 else 1)
    # Few rows have the first number of another row. Only those are put into order by all numbers and by position:
    # numpy's plain sort is several times faster than its stable one.
    first = np.argsort(columns[:, 0])
    shared = first[_is_repeated(columns[first, :1])]
    order = shared[np.lexsort((positions[shared], *columns[shared].T))]
    order = order[_is_repeated(columns[order])]
    ordered, members = columns[order], positions[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    starts = np.flatnonzero(begins)
    sizes = np.diff(np.append(starts, len(members)))
    if first_own and len(members):
        is_wanted = members[starts + sizes - 1] >= first_own
        members, sizes = members[np.repeat(is_wanted, sizes)], sizes[is_wanted]
    return Groups(members, sizes)


def _is_repeated(ordered: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which rows of a sorted array equal the one before or after, bool [rows]."""
    is_same = (ordered[1:] == ordered[:-1]).all(axis=1)
    result = np.zeros(len(ordered), np.bool_)
    result[1:] |= is_same
    result[:-1] |= is_same
    return result
