"""Cuts the input into parts: row ranges of one file, each with about the same amount of work.

The cuts depend only on footers, the sample of `decoded_size.py` and settings, so they are the same on every
machine and in every run.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tirazh.pipeline.crossing.crossing import PREFIX, Crossing
from tirazh.pipeline.input.footers import Footer, RowGroup
from tirazh.pipeline.input.row_mask import RowMask
from tirazh.pipeline.storage.disk import StoredFile

BYTES_PER_TOKEN = 4
PARTS_WANTED = 64
PLAN_DIGITS = 8  # of the plan id, in the name of a part
MIN_PART_TOKENS = 1_024
MAX_PART_TOKENS = 262_144
# Each row takes a few kilobytes of Python objects, however short it is, so a limit on tokens does
# not bound memory.
MAX_PART_ROWS = 16_384
# Reading a part inside a row group means decoding the group from its start. Up to 16 parts per
# group are always allowed (the group is then decoded 8.5 times in total); more only if that stays
# below 16 GiB or if a part would not fit in memory.
MIN_PARTS_OF_A_GROUP = 16
MAX_DECODED_BYTES = 16 << 30
MAX_PART_BYTES = 512 << 20  # decoded, on average over a row group
# The tokens of a text are Python lists of integers, ten times its size: 64 MiB of text take 0.6 GB
# in each step.
MAX_PART_TEXT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """Rows `start` to `stop` (exclusive) of one input file; they go to the output file `name`.

    With a `crossing` they are its rows, and `file` only names it; or every row of the file is crossed with all of its
    rows, and `start` and `stop` count those of the product (`crossed.py`).

    `plan_id` is the id of the plan that cut it, or empty for a part of no plan. `row_bytes` is the estimated
    size of a decoded row of the file, in bytes, 0 if it is unknown. `left_out` are the rows from `start` on that
    the output does not have. `pieces` are the row ranges of a part of several, in order; `file`, `start` and `stop` are
    then those of the first. With `failed_rows` it has only those rows of the part of this number, whose answers had an
    error, and `file` is the part file that has them (`generations/retry.py`).
    """

    index: int
    total: int
    file: StoredFile
    start: int
    stop: int
    plan_id: str = ""
    row_bytes: int = 0
    crossing: Crossing | None = field(default=None, compare=False, repr=False)
    left_out: RowMask | None = field(default=None, repr=False)
    pieces: tuple[Part, ...] = field(default=(), repr=False)
    failed_rows: RowMask | None = field(default=None, compare=False, repr=False)

    @property
    def rows(self) -> int:
        """The rows of the input that the output has of it."""
        if self.pieces:
            return sum(piece.rows for piece in self.pieces)
        return self.stop - self.start - (self.left_out.count if self.left_out is not None else 0)

    @property
    def ranges(self) -> tuple[Part, ...]:
        """Its row ranges, each of one file: itself, unless it has several."""
        return self.pieces or (self,)

    @property
    def input_version(self) -> str:
        """The version of the input file that it is made from; of several files a digest of their versions."""
        versions = [each.file.version for each in self.ranges]
        if len(versions) == 1:
            return versions[0]
        return hashlib.sha256(json.dumps(versions).encode()).hexdigest()[:32]

    def row_in_file(self, row: int) -> int:
        """The number in the file of row number `row` of a part of one range."""
        return self.start + (row if self.left_out is None else int(self.left_out.others()[row]))

    @property
    def has_file(self) -> bool:
        """Whether there is a file, not only the name of a crossing."""
        return not self.file.uri.startswith(PREFIX)

    @property
    def rows_per_file_row(self) -> int:
        """The rows that a row of the file becomes."""
        return self.crossing.num_rows if self.crossing is not None and self.has_file else 1

    @property
    def of_file(self) -> Part:
        """The rows of the file that the part is made from, as a part without a crossing."""
        each = self.rows_per_file_row
        return replace(self, start=self.start // each, stop=-(-self.stop // each), crossing=None)

    @property
    def name(self) -> str:
        return part_name(self.index, self.total, self.plan_id)


@dataclass(frozen=True, slots=True)
class RowCost:
    """The work per row besides its prompt. `new_tokens` are generated per row, over all samples."""

    new_tokens: int = 0

    def tokens(self, group: RowGroup) -> int:
        """Estimate the tokens of a row group: prompts (4 bytes per token) and completions."""
        return group.text_bytes // BYTES_PER_TOKEN + group.rows * (1 + self.new_tokens)


def part_name(index: int, total: int, plan_id: str) -> str:
    """`part-00017-of-00420-1a2b3c4d.parquet`; the last digits are the first eight of the plan id.

    So two jobs never write a file of the same name, not even into the same directory.
    """
    suffix = f"-{plan_id[:PLAN_DIGITS]}" if plan_id else ""
    return f"part-{index:05d}-of-{total:05d}{suffix}.parquet"


def take_rows(footers: Sequence[Footer], limit: int | None) -> list[Footer]:
    """Return the footers of the first `limit` rows of the input, without files and groups that are empty."""
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


def count_tokens(footers: Sequence[Footer], cost: RowCost) -> int:
    """Estimate the tokens of all rows, prompts and completions."""
    return sum(cost.tokens(group) for footer in footers for group in footer.row_groups)


def choose_part_tokens(total_tokens: int) -> int:
    """The tokens of one part: a 64th of all, between a minimum (files must not be tiny) and a
    maximum (a part is the unit of work that a failure loses).
    """
    return max(MIN_PART_TOKENS, min(MAX_PART_TOKENS, total_tokens // PARTS_WANTED))


def cut_evenly(rows: int, part_rows: int) -> list[int]:
    """The boundaries of parts of `part_rows` rows: `[0, part_rows, …, rows]`."""
    return [*range(0, rows, part_rows), rows]


def cut_by_tokens(groups: Sequence[RowGroup], part_tokens: int, cost: RowCost) -> list[int]:
    """The boundaries of parts of about `part_tokens` tokens: row numbers from 0 to the number of rows.

    Small row groups are combined into a part, large ones are split. No part combines incomplete row
    groups.
    """
    cuts, row, open_tokens, open_bytes = [0], 0, 0, 0  # `open`: accumulated since the last cut
    for group in groups:
        tokens = cost.tokens(group)
        # Close the open part if this group would make it too large.
        is_full = open_tokens + tokens > part_tokens * 1.5 or open_bytes + group.all_bytes > MAX_PART_BYTES
        if open_tokens and (is_full or row + group.rows - cuts[-1] > MAX_PART_ROWS):
            cuts.append(row)
            open_tokens = open_bytes = 0
        # Only a group that starts a part is split.
        splits = _num_splits(group, tokens, part_tokens) if not open_tokens else 1
        cuts.extend(row + group.rows * index // splits for index in range(1, splits))
        row += group.rows
        open_tokens, open_bytes = open_tokens + tokens, open_bytes + group.all_bytes
        if splits > 1 or open_tokens >= part_tokens or row - cuts[-1] >= MAX_PART_ROWS:
            cuts.append(row)
            open_tokens = open_bytes = 0
    return cuts if cuts[-1] == row else [*cuts, row]


def cut_kept_rows(
    footer: Footer, left_out: RowMask | None, *, part_rows: int | None, part_tokens: int, cost: RowCost
) -> list[int]:
    """The boundaries of the parts of a file without the rows in `left_out`: row numbers of the file.

    With `part_rows` a part has so many of the other rows, else about `part_tokens` tokens.
    """
    groups, rows = footer.row_groups, footer.rows
    if left_out is not None:
        groups, rows = kept_groups(footer, left_out), footer.rows - left_out.count
    cuts = cut_evenly(rows, part_rows) if part_rows else cut_by_tokens(groups, part_tokens, cost)
    if left_out is None:
        return cuts
    if not rows:
        return [0, footer.rows]
    others = left_out.others()
    return [0, *(int(others[cut]) for cut in cuts[1:-1]), footer.rows]


def kept_groups(footer: Footer, left_out: RowMask) -> tuple[RowGroup, ...]:
    """The row groups of a file as they were without the rows in `left_out`."""
    groups, start, is_out = [], 0, left_out.array()
    for group in footer.row_groups:
        rows = group.rows - int(is_out[start : start + group.rows].sum())
        start += group.rows
        if rows:
            groups.append(_shorten(group, rows))
    return tuple(groups)


def _num_splits(group: RowGroup, tokens: int, part_tokens: int) -> int:
    """The number of parts that one row group is split into."""
    most = max(MIN_PARTS_OF_A_GROUP, 2 * MAX_DECODED_BYTES // max(1, group.all_bytes))
    by_work = min(max(round(tokens / part_tokens), math.ceil(group.rows / MAX_PART_ROWS)), most)
    # The limits on memory hold even if the group is then decoded more often.
    by_memory = max(math.ceil(group.all_bytes / MAX_PART_BYTES), math.ceil(group.text_bytes / MAX_PART_TEXT_BYTES))
    return max(1, min(group.rows, max(by_work, by_memory)))


def _shorten(group: RowGroup, rows: int) -> RowGroup:
    share = rows / group.rows
    sizes = (group.text_bytes, group.all_bytes, group.coded_text_bytes, group.coded_bytes)
    return RowGroup(rows, *(math.ceil(size * share) for size in sizes))
