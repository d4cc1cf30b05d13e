"""Which row of a cluster of near-duplicates stays.

Rows are taken in input order. A row is dropped if it is near to an earlier row that stays, so every dropped row
has a survivor that resembles it. With connected components, as in FineWeb, a chain of small changes drops rows that
resemble no row that stays: 3.7 % of the dropped rows had a similarity below 0.5, on variants of variants.
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
_ROWS_AT_ONCE = 1 << 16


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
    number_own = int(np.searchsorted(touched, first_own))
    memberships, leaders = _memberships(touched, bands)
    result = _near_to_leader(signatures, leaders, number_own, least_equal)
    # Whatever is not decided yet is taken in order, among the rows that stay in the same groups.
    is_open = (result < 0) & (leaders != np.arange(len(touched)))
    is_open[:number_own] = False
    is_listed = np.isin(memberships, memberships[is_open]) & (memberships >= 0)
    rows = np.flatnonzero(is_listed.any(axis=1) & (result < 0))
    staying: dict[int, list[int]] = {}
    for row, groups in zip(rows.tolist(), memberships[rows].tolist(), strict=True):
        present = [group for group in groups if group >= 0]
        if is_open[row]:
            compared = sorted({other for group in present for other in staying.get(group, ())})
            result[row] = _first_near(signatures, row, compared, least_equal)
            if result[row] >= 0:
                continue
        for group in present:
            others = staying.setdefault(group, [])
            if len(others) < MOST_COMPARED:
                others.append(row)
    return result


def _near_to_leader(signatures: Signatures, leaders: Positions, number_own: int, least_equal: int) -> Positions:
    """The leader of every row that is near to it, if the leader stays for certain, else -1.

    A row's leader is the first row that shares a band with it. It stays for certain if it is its own leader, or a row
    of an earlier output. This decides nearly all rows, without a loop in Python.
    """
    rows = np.arange(len(leaders))
    is_certain = (leaders == rows) | (rows < number_own)
    asked = np.flatnonzero((leaders != rows) & is_certain[leaders] & (rows >= number_own))
    result = np.full(len(leaders), -1, np.int64)
    for start in range(0, len(asked), _ROWS_AT_ONCE):
        some = asked[start : start + _ROWS_AT_ONCE]
        equal = (signatures[some] == signatures[leaders[some]]).sum(axis=1)
        near = some[equal >= least_equal]
        result[near] = leaders[near]
    return result


def _first_near(signatures: Signatures, row: int, compared: list[int], least_equal: int) -> int:
    if not compared:
        return -1
    equal = (signatures[compared] == signatures[row]).sum(axis=1)
    near = np.flatnonzero(equal >= least_equal)
    return compared[near[0]] if len(near) else -1


def _memberships(touched: Positions, bands: Sequence[Groups]) -> tuple[npt.NDArray[np.int32], Positions]:
    """The number of the group of every touched row in every band, or -1, int32 [touched, bands]; and the first touched
    row that is in a group with it, int64 [touched].
    """
    result = np.full((len(touched), len(bands)), -1, np.int32)
    leaders = np.arange(len(touched))
    first = 0
    for band, groups in enumerate(bands):
        rows = np.searchsorted(touched, groups.members)
        result[rows, band] = first + groups.numbers
        leaders[rows] = np.minimum(leaders[rows], np.searchsorted(touched, groups.first_members))
        first += len(groups.sizes)
    return result, leaders
