"""Finds the duplicates among the rows of a job, and between them and earlier outputs, from side files alone.

1. Rows with the same text: one task. The first row of each group represents it from here on.
2. Rows that share a band of their signatures: one task a band, which reads one column.
3. The signatures of those rows, and which of them stay: `survivors.py`.

Rows are taken in the order of (part, row), after all rows of earlier outputs. The result depends on that order and
on the texts only: not on the cut into parts, on the order in which tasks end, or on where they run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tirazh.pipeline.quality.dedup.config import DedupConfig
from tirazh.pipeline.quality.dedup.duplicates import (
    DUPLICATE,
    DUPLICATE_OF_EARLIER,
    NEAR_DUPLICATE,
    Duplicates,
    from_table,
    make_table,
)
from tirazh.pipeline.quality.dedup.earlier import EarlierOutput, EarlierPart, make_missing
from tirazh.pipeline.quality.dedup.groups import Groups, Positions
from tirazh.pipeline.quality.dedup.minhash import BANDS, equal_bytes_needed
from tirazh.pipeline.quality.dedup.side_file import SideFile
from tirazh.pipeline.quality.dedup.sources import (
    Flags,
    Located,
    Source,
    Sources,
    find_band,
    find_equal,
    gather_signatures,
)
from tirazh.pipeline.quality.dedup.survivors import find_survivors, touched_rows
from tirazh.pipeline.quality.dedup.tasks import Run, is_ray_connected, run_here, run_on_ray
from tirazh.pipeline.storage.filesystem import Storage

# From so many side files on, the tasks run on Ray. Fewer are read sooner here than tasks start: a part is about half a
# minute of a replica's work.
RAY_FROM_FILES = 16
# How many side files a task of step 3 reads.
_FILES_OF_A_TASK = 64


def find_duplicates(
    side_files: Sequence[SideFile],
    config: DedupConfig,
    *,
    storage: Storage,
    eligible: Mapping[int, Flags] | None = None,
    against: Sequence[EarlierOutput] = (),
    run: Run | None = None,
) -> Duplicates:
    """The rows to drop, the reason for each, and the row that stays in its place.

    `eligible` has a mask (bool [rows]) for parts in which some rows take no part: they are not dropped here and make
    no other row a duplicate. Rows of `against` always stay. `run` runs the tasks; by default on Ray if it is
    connected and there are at least `RAY_FROM_FILES` side files, else in this process.

    Memory of this process: 1 byte for every row, and about 250 bytes for every row that shares a band with another.
    Raises JobError for a side file that is damaged or has not as many rows as its mask, InputError for a missing
    one and for an earlier output without the compared columns, StorageError if the storage does not answer.
    """
    count = len(side_files) + sum(len(output.parts) for output in against)
    run = run or (run_on_ray if is_ray_connected() and count >= RAY_FROM_FILES else run_here)
    files = (*_earlier_files(against, storage, config, run), *_own_files(side_files, eligible or {}))
    directories = tuple(output.directory for output in against)
    if not files:
        return Duplicates({}, directories)
    sources = Sources(files, storage, config)
    ((counts, equal),) = run(find_equal, sources, [None])
    located = _locate(sources, counts, equal)
    near = _find_near(sources, located, run) if config.near is not None else (_NONE, _NONE)
    return _describe(sources, located, equal, near, directories)


_NONE = np.empty(0, np.int64)


def _own_files(side_files: Sequence[SideFile], eligible: Mapping[int, Flags]) -> Iterator[Source]:
    for file in sorted(side_files, key=lambda each: each.part):
        yield Source(file.part, file.uri, eligible=eligible.get(file.part))


def _earlier_files(
    against: Sequence[EarlierOutput], storage: Storage, config: DedupConfig, run: Run
) -> Iterator[Source]:
    """The side files of earlier outputs; those that are missing are made and held in memory."""
    for index, output in enumerate(against):
        made = run(_make_missing, (storage, config), output.parts)
        for part, data in zip(output.parts, made, strict=True):
            if data is not None:
                yield Source(part.part, data, earlier=index)
            elif part.side_file is not None:
                yield Source(part.part, part.side_file, earlier=index, dropped=part.dropped)


def _make_missing(shared: tuple[Storage, DedupConfig], part: EarlierPart) -> bytes | None:
    storage, config = shared
    return make_missing(part, storage, config)


def _locate(sources: Sources, counts: Positions, equal: Groups) -> Located:
    """Where the rows are, and which of them the first row of a group of equal texts represents."""
    starts = np.append(0, np.cumsum(counts))
    excluded = np.zeros(starts[-1], np.bool_)
    excluded[equal.members[equal.members != equal.first_members]] = True
    number_earlier = sum(source.earlier >= 0 for source in sources.files)
    return Located(starts, int(starts[number_earlier]), excluded)


def _find_near(sources: Sources, located: Located, run: Run) -> tuple[Positions, Positions]:
    """The positions of the rows that are near to another one, ascending, and those of their survivors."""
    assert sources.config.near is not None
    bands = list(run(find_band, (sources, located), range(BANDS)))
    touched = touched_rows(bands)
    total = len(sources.files)
    ranges = [(start, min(start + _FILES_OF_A_TASK, total)) for start in range(0, total, _FILES_OF_A_TASK)]
    signatures = np.concatenate(list(run(gather_signatures, (sources, located, touched), ranges)))
    survivors = find_survivors(
        touched,
        signatures,
        bands,
        first_own=located.first_own,
        least_equal=equal_bytes_needed(sources.config.near),
    )
    is_dropped = survivors >= 0
    return touched[is_dropped], touched[survivors[is_dropped]]


def _describe(
    sources: Sources,
    located: Located,
    equal: Groups,
    near: tuple[Positions, Positions],
    directories: tuple[str, ...],
) -> Duplicates:
    """The result for both kinds of duplicates, in the order of the rows."""
    copies, originals = equal.members, equal.first_members
    is_copy = (copies != originals) & (copies >= located.first_own)
    copies, originals = copies[is_copy], originals[is_copy]
    # The first of equal rows may itself be near to an earlier row; then that one stays for all of them.
    replaced = _look_up(originals, near)
    is_near = replaced >= 0
    positions = np.concatenate([copies, near[0]])
    survivors = np.concatenate([np.where(is_near, replaced, originals), near[1]])
    reasons = np.concatenate([np.where(is_near, NEAR_DUPLICATE, DUPLICATE), np.full(len(near[0]), NEAR_DUPLICATE)])
    reasons[survivors < located.first_own] = DUPLICATE_OF_EARLIER
    order = np.argsort(positions)
    parts, rows, _ = _rows_at(positions[order], sources, located)
    survivor = _rows_at(survivors[order], sources, located)
    return from_table(make_table(parts, rows, reasons[order], survivor), directories)


def _look_up(positions: Positions, near: tuple[Positions, Positions]) -> Positions:
    """The survivor of each position if it was dropped as a near-duplicate, else -1."""
    dropped, survivors = near
    if not len(dropped):
        return np.full(len(positions), -1, np.int64)
    index = np.minimum(np.searchsorted(dropped, positions), len(dropped) - 1)
    return np.where(dropped[index] == positions, survivors[index], -1)


def _rows_at(positions: Positions, sources: Sources, located: Located) -> tuple[Positions, Positions, Positions]:
    """The part, the row and the earlier output (or -1) of positions."""
    file = np.searchsorted(located.starts, positions, side="right") - 1
    parts: npt.NDArray[np.int64] = np.array([source.part for source in sources.files], np.int64)
    earlier: npt.NDArray[np.int64] = np.array([source.earlier for source in sources.files], np.int64)
    return parts[file], positions - located.starts[file], earlier[file]
