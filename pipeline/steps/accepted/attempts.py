"""How many attempts the cells get in the next round, from what was accepted before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

# A few attempts more than the rate of acceptance asks for, so that most cells need no further round: a round costs the
# start of replicas, a surplus row costs its tokens.
_MARGIN = 1.1


def next_attempts(accepted_C: Counts, attempted_C: Counts, *, wanted: int, most: int) -> Counts:
    """The number of attempts of every cell in the next round, int64 [C]; all 0 when nothing is left to do.

    `accepted_C` and `attempted_C` are those of the rounds before, `wanted` the rows that every cell shall have, and
    `most` the attempts that a cell may have in all. The rate of acceptance of a cell is that of the whole job, weighted
    like `wanted` attempts, and that of its own attempts.
    """
    missing_C = np.maximum(wanted - accepted_C, 0)
    attempted = int(attempted_C.sum())
    if not attempted:
        return np.minimum(missing_C, most)
    job_rate = int(accepted_C.sum()) / attempted
    rate_C = (accepted_C + job_rate * wanted) / (attempted_C + wanted)
    rate_C = np.maximum(rate_C, wanted / most)  # a cell that accepts nothing gets no more than it may have
    needed_C = np.ceil(missing_C * _MARGIN / rate_C).astype(np.int64)
    return np.minimum(needed_C, np.maximum(most - attempted_C, 0))


def first_accepted(cells_R: Counts, passes_R: NDArray[np.bool_], *, wanted: int) -> NDArray[np.bool_]:
    """Which rows are among the first `wanted` of their cell that pass, bool [R]. Rows of a cell are in order."""
    order = np.argsort(cells_R, kind="stable")
    cells, passes = cells_R[order], passes_R[order]
    starts = np.flatnonzero(np.diff(cells, prepend=-1))
    before: Counts = np.cumsum(passes) - passes  # rows that pass before each row, over all cells
    base = np.repeat(before[starts], np.diff(np.append(starts, len(cells)))) if len(cells) else before
    chosen = np.zeros(len(cells_R), np.bool_)
    chosen[order] = passes & (before - base < wanted)
    return chosen
