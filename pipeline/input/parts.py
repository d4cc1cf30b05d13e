"""Cuts the input into parts: pieces of one file, each about as much work as the others. Pure arithmetic.

Called by `plan.py`. Cuts depend on footers and settings alone, so every machine and every run makes the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tirazh.pipeline.input.footers import Footer, RowGroup
from tirazh.pipeline.storage.disk import StoredFile

BYTES_PER_TOKEN = 4
PARTS_WANTED = 64
MIN_PART_TOKENS = 1_024
MAX_PART_TOKENS = 262_144
# A row costs a few kilobytes of Python on its way, however short it is, so tokens alone would not bound memory.
MAX_PART_ROWS = 16_384
# A part inside a row group costs decoding the group from its start. Up to 16 parts are always fine (the group is then
# decoded 8.5 times over all); more only while that stays under 16 GiB, or where a part would not fit in memory.
MIN_PARTS_OF_A_GROUP = 16
MAX_DECODED_BYTES = 16 << 30
MAX_PART_BYTES = 512 << 20
# Text becomes tokens on its way, lists of Python's numbers ten times its size: 64 MiB of it are 0.6 GB in each step.
MAX_PART_TEXT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """Rows `start` to `stop` of one input file, and the name of the output file they go to."""

    index: int
    total: int
    file: StoredFile
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def name(self) -> str:
        return part_name(self.index, self.total)


@dataclass(frozen=True, slots=True)
class Work:
    """What a row costs besides reading it. `extra_tokens` a row: new tokens, over all samples."""

    extra_tokens: int = 0

    def tokens(self, group: RowGroup) -> int:
        return group.text_bytes // BYTES_PER_TOKEN + group.rows * (1 + self.extra_tokens)


def part_name(index: int, total: int) -> str:
    """`part-00017-of-00420.parquet`."""
    return f"part-{index:05d}-of-{total:05d}.parquet"


def take_rows(footers: Sequence[Footer], limit: int | None) -> list[Footer]:
    """`footers` as if the input ended after `limit` rows; files without a row are left out."""
    left = math.inf if limit is None else limit
    taken = []
    for footer in footers:
        groups = []
        for group in footer.row_groups:
            rows = int(min(group.rows, left))
            left -= rows
            if rows:
                groups.append(_shorten(group, rows))
        if groups:
            taken.append(replace(footer, row_groups=tuple(groups)))
    return taken


def count_tokens(footers: Sequence[Footer], work: Work) -> int:
    """Estimated tokens of all rows: bytes of text / 4, plus what is to be generated."""
    return sum(work.tokens(group) for footer in footers for group in footer.row_groups)


def choose_part_tokens(total_tokens: int) -> int:
    """Tokens of one part: 64 parts, unless they would be too small to be worth a file or too big to lose."""
    return max(MIN_PART_TOKENS, min(MAX_PART_TOKENS, total_tokens // PARTS_WANTED))


def cut_evenly(rows: int, part_rows: int) -> list[int]:
    """Row numbers where parts of `part_rows` rows begin, and the end: `[0, part_rows, …, rows]`."""
    return [*range(0, rows, part_rows), rows]


def cut_by_tokens(groups: Sequence[RowGroup], part_tokens: int, work: Work) -> list[int]:
    """Row numbers where parts begin, and the end, so that a part holds about `part_tokens`.

    Small row groups are gathered whole, big ones split by themselves: no part reads two row groups in pieces.
    """
    cuts, row, open_tokens, open_bytes = [0], 0, 0, 0  # `open`: gathered since the last cut
    for group in groups:
        tokens = work.tokens(group)
        is_full = open_tokens + tokens > part_tokens * 1.5 or open_bytes + group.all_bytes > MAX_PART_BYTES
        if open_tokens and (is_full or row + group.rows - cuts[-1] > MAX_PART_ROWS):
            cuts.append(row)
            open_tokens = open_bytes = 0
        pieces = _pieces(group, tokens, part_tokens) if not open_tokens else 1
        cuts.extend(row + group.rows * piece // pieces for piece in range(1, pieces))
        row += group.rows
        open_tokens, open_bytes = open_tokens + tokens, open_bytes + group.all_bytes
        if pieces > 1 or open_tokens >= part_tokens or row - cuts[-1] >= MAX_PART_ROWS:
            cuts.append(row)
            open_tokens = open_bytes = 0
    return cuts if cuts[-1] == row else [*cuts, row]


def _pieces(group: RowGroup, tokens: int, part_tokens: int) -> int:
    most = max(MIN_PARTS_OF_A_GROUP, 2 * MAX_DECODED_BYTES // max(1, group.all_bytes))
    by_work = min(max(round(tokens / part_tokens), math.ceil(group.rows / MAX_PART_ROWS)), most)
    by_memory = max(math.ceil(group.all_bytes / MAX_PART_BYTES), math.ceil(group.text_bytes / MAX_PART_TEXT_BYTES))
    return max(1, min(group.rows, max(by_work, by_memory)))


def _shorten(group: RowGroup, rows: int) -> RowGroup:
    share = rows / group.rows
    return RowGroup(rows, math.ceil(group.text_bytes * share), math.ceil(group.all_bytes * share))
