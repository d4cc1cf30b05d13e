"""Which row of a cluster of near-duplicates stays.

Rows are taken in input order. A row is dropped if it is near to an earlier row that stays, so every dropped row
has a survivor that resembles it. (With connected components, as in FineWeb, a chain of small changes would drop rows
that resemble no row that stays.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tirazh.pipeline.quality.dedup.groups import Groups, Positions
from tirazh.pipeline.quality.dedup.minhash import Signatures

# A row is compared with the first rows of a group that stay, up to this number. Rows that share a band and are not
# near are rare; the bound keeps a band that very many texts share (a boilerplate) from taking quadratic time.
MOST_COMPARED = 64


def touched_rows(bands: Sequence[Groups]) -> Positions:
    """The positions that occur in any group, ascending, int64."""
    members = [groups.members for groups in bands]
    return np.unique(np.concatenate(members)) if members else np.empty(0, np.int64)


def find_survivors(
    touched: Positions,
    signatures: Signatures,
    bands: Sequence[Groups],
    *,
    first_own: int,
    least_equal: int,
) -> Positions:
    """For every touched row the index (in `touched`) of the row that it is dropped for, or -1 if it stays.

    `signatures`, uint8 [touched, 112], are those of the rows in `touched`. Two rows are near if they share a band and
    at least `least_equal` bytes are equal. Rows before position `first_own` belong to earlier outputs and always
    stay. The survivor is the first row that is near and stays.
    """
    memberships = _memberships(touched, bands)
    staying: dict[int, list[int]] = {}
    result = np.full(len(touched), -1, np.int64)
    number_own = int(np.searchsorted(touched, first_own))
    for row, groups in enumerate(memberships.tolist()):
        present = [group for group in groups if group >= 0]
        if row >= number_own:
            compared = sorted({other for group in present for other in staying.get(group, ())})
            survivor = _first_near(signatures, row, compared, least_equal)
            if survivor >= 0:
                result[row] = survivor
                continue
        for group in present:
            others = staying.setdefault(group, [])
            if len(others) < MOST_COMPARED:
                others.append(row)
    return result


def _first_near(signatures: Signatures, row: int, compared: list[int], least_equal: int) -> int:
    if not compared:
        return -1
    equal = (signatures[compared] == signatures[row]).sum(axis=1)
    near = np.flatnonzero(equal >= least_equal)
    return compared[near[0]] if len(near) else -1


def _memberships(touched: Positions, bands: Sequence[Groups]) -> npt.NDArray[np.int32]:
    """The number of the group of every touched row in every band, or -1, int32 [touched, bands]."""
    result = np.full((len(touched), len(bands)), -1, np.int32)
    first = 0
    for band, groups in enumerate(bands):
        result[np.searchsorted(touched, groups.members), band] = first + groups.numbers
        first += len(groups.sizes)
    return result
