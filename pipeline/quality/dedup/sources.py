"""The rows that are compared, in their order: side files of earlier outputs, then those of the job, and the tasks that
read them. A row's position is its index in all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tirazh.errors import JobError
from tirazh.pipeline.quality.dedup.config import DedupConfig
from tirazh.pipeline.quality.dedup.groups import Groups, Positions, group_rows
from tirazh.pipeline.quality.dedup.minhash import BANDS, Signatures, to_bytes
from tirazh.pipeline.quality.dedup.side_file import hashes_of, numbers_of, read_side_file
from tirazh.pipeline.quality.dedup.signatures import BAND_NAMES, EXACT
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The side file of one part, by URI or as bytes.

    `earlier` is the index of the earlier output, or -1 for the job itself. `eligible` (bool [rows]) are the rows that
    take part, `dropped` (int64) those that do not; None for all.
    """

    part: int
    content: str | bytes
    earlier: int = -1
    eligible: Flags | None = None
    dropped: Positions | None = None

    @property
    def name(self) -> str:
        """The file in a message."""
        return show_uri(self.content) if isinstance(self.content, str) else f"part {self.part}"


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """All side files in order, the earlier ones first."""

    files: tuple[Source, ...]
    storage: Storage
    config: DedupConfig


@dataclass(frozen=True, slots=True, eq=False)
class Located:
    """The positions of the rows: `starts` (int64 [files + 1]) are those of the first row of every file.

    `first_own` is the position of the first row of the job, `excluded` (bool [rows]) are rows that are not compared
    by bands, because the same text occurs earlier.
    """

    starts: Positions
    first_own: int
    excluded: Flags


def find_equal(sources: Sources, _: None) -> tuple[Positions, Groups]:
    """The number of rows of every file, and the groups of rows with the same text. Reads one column."""
    counts: list[int] = []
    values, positions = [], []
    for source in sources.files:
        found, has_text = hashes_of(_read(source, sources, [EXACT]).column(0))
        wanted = has_text & _taking_part(source, len(found))
        values.append(found[wanted])
        positions.append(np.flatnonzero(wanted) + sum(counts))
        counts.append(len(found))
    first_own = sum(count for count, source in zip(counts, sources.files, strict=True) if source.earlier >= 0)
    groups = group_rows(np.concatenate(values), np.concatenate(positions), first_own=first_own)
    return np.array(counts, np.int64), groups


def find_band(shared: tuple[Sources, Located], band: int) -> Groups:
    """The groups of rows that share a band. Reads one column."""
    sources, located = shared
    values, positions = [], []
    for index, source in enumerate(sources.files):
        numbers, has_band = numbers_of(_read(source, sources, [BAND_NAMES[band]]).column(0))
        start, stop = located.starts[index : index + 2]
        wanted = has_band & _taking_part(source, len(numbers)) & ~located.excluded[start:stop]
        values.append(numbers[wanted])
        positions.append(np.flatnonzero(wanted) + start)
    return group_rows(np.concatenate(values), np.concatenate(positions), first_own=located.first_own)


def gather_signatures(shared: tuple[Sources, Located, Positions], files: tuple[int, int]) -> Signatures:
    """The signatures of the touched rows in a range of files, uint8 [rows, 112]. Reads all bands of these files."""
    sources, located, touched = shared
    found = [np.empty((0, BANDS), np.uint64)]
    for index in range(*files):
        start, stop = located.starts[index : index + 2]
        rows = touched[np.searchsorted(touched, start) : np.searchsorted(touched, stop)] - start
        if len(rows):
            table = _read(sources.files[index], sources, BAND_NAMES).take(rows)
            found.append(np.stack([numbers_of(column)[0] for column in table.columns], axis=1))
    return to_bytes(np.concatenate(found))


def _read(source: Source, sources: Sources, names: Sequence[str]) -> pa.Table:
    return read_side_file(source.content, sources.storage, sources.config, names)


def _taking_part(source: Source, rows: int) -> Flags:
    """Which rows of a file are compared, bool [rows]. Raises JobError if its masks are those of another file."""
    mask = np.ones(rows, np.bool_) if source.eligible is None else source.eligible
    dropped = np.empty(0, np.int64) if source.dropped is None else source.dropped
    if len(mask) != rows or np.any((dropped < 0) | (dropped >= rows)):
        raise JobError(f"{source.name} has {rows} rows, not those of its part; remove it and run the job again")
    if len(dropped):
        mask = mask.copy()
        mask[dropped] = False
    return mask
