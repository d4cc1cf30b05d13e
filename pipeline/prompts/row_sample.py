"""Chooses the rows of a job whose mean label probabilities calibrate it (`calibrate: batch`).

The rows are those with the smallest hashes of their content. They depend on the contents of the input alone: not on the
order of its rows, nor on its files, nor on the parts that they are cut into. Equal rows count once.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa

from tirazh.pipeline.column_values import BrokenText, values_of
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.repetitions import content_of
from tirazh.pipeline.input.schemas.arrow_types import take

# Zhou et al. 2023 find that the estimate is stable from a few dozen rows on.
MAX_SAMPLE_ROWS = 256
# So many are chosen, because rows that have no prompt (an empty text) are left out afterwards.
MAX_CHOSEN_ROWS = 2 * MAX_SAMPLE_ROWS


def choose_sample(parts: Iterable[Part], columns: Sequence[str], read: Callable[[Part], pa.Table]) -> pa.Table:
    """Return at most `MAX_CHOSEN_ROWS` rows with different contents, in the order of their hashes.

    `columns` are those of the prompt, and `read` returns them for a part, of which there is at least one. Every part is
    read once; besides a part, only the chosen rows are held. Raises InputError for a damaged input.
    """
    chosen: dict[str, pa.Table] = {}
    heap: list[_Reversed] = []  # the largest of the chosen hashes first
    tables: list[pa.Table] = []
    for part in parts:
        table = read(part).select(list(columns))
        tables = tables or [table.slice(0, 0)]
        for row, digest in enumerate(_digests(table, columns)):
            if digest is None or digest in chosen or (len(heap) == MAX_CHOSEN_ROWS and digest >= heap[0].digest):
                continue
            if len(heap) == MAX_CHOSEN_ROWS:
                del chosen[heapq.heappop(heap).digest]
            heapq.heappush(heap, _Reversed(digest))
            # Copied: a slice would keep the whole part in memory.
            chosen[digest] = take(table, [row])
    return pa.concat_tables([*tables, *(chosen[digest] for digest in sorted(chosen))]).combine_chunks()


def digest_of(sample: pa.Table) -> str:
    """A hash of the chosen rows, hexadecimal: part of the identity of the job."""
    digests = _digests(sample, sample.column_names)
    return hashlib.sha256("\n".join(map(str, digests)).encode()).hexdigest()


def _digests(table: pa.Table, columns: Sequence[str]) -> list[str | None]:
    """The hash of the content of every row; None for a text that cannot be decoded."""
    values = [values_of(table.column(name)) for name in columns]
    return [_digest(row) for row in zip(*values, strict=True)]


def _digest(row: Sequence[Any]) -> str | None:
    if any(isinstance(value, BrokenText) for value in row):
        return None
    return hashlib.blake2b(content_of(row).encode(errors="surrogatepass"), digest_size=16).hexdigest()


class _Reversed:
    """A hash that sorts the other way round."""

    __slots__ = ("digest",)

    def __init__(self, digest: str) -> None:
        self.digest = digest

    def __lt__(self, other: _Reversed) -> bool:
        return self.digest > other.digest
