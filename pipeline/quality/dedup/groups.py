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

    Groups without a position of `first_own` or above are left out. The result does not depend on the order in
    which the groups are found: only their members matter.
    """
    # Sorts are stable, so that positions ascend within a group.
    order = np.argsort(values, kind="stable") if values.ndim == 1 else np.lexsort((values[:, 0], values[:, 1]))
    ordered = values[order].reshape(len(order), -1)
    is_same = (ordered[1:] == ordered[:-1]).all(axis=1)
    in_group = np.zeros(len(order), np.bool_)
    in_group[1:] |= is_same
    in_group[:-1] |= is_same
    begins = np.ones(len(order), np.bool_)
    begins[1:] = ~is_same
    members, starts = positions[order[in_group]], np.flatnonzero(begins[in_group])
    sizes = np.diff(np.append(starts, len(members)))
    if first_own and len(members):
        is_wanted = members[starts + sizes - 1] >= first_own
        members, sizes = members[np.repeat(is_wanted, sizes)], sizes[is_wanted]
    return Groups(members, sizes)
