"""The rows of a crossing as an input: one file that does not exist, whose parts are made by arithmetic.

Or the product of the files of an input with a crossing: row r of a file with a crossing of E rows has the values of
row r // E of the file and of row r mod E of the crossing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from tirazh.pipeline.crossing.crossing import PREFIX, Crossing
from tirazh.pipeline.input.footers import Footer, RowGroup
from tirazh.pipeline.storage.disk import StoredFile

# The cutting combines and splits row groups, so they are small: rows of a job of some thousands, and otherwise so many
# that there are about as many groups.
_MIN_GROUP_ROWS = 64
_GROUPS = 8_192


def file_of(crossing: Crossing) -> StoredFile:
    """The file that stands for the rows; its name and its version change with the rows."""
    return StoredFile(f"{PREFIX}{crossing.digest[:16]}", "vary", crossing.nbytes, crossing.digest)


def footer_of(crossing: Crossing, *, limit: int | None, text_columns: Iterable[str]) -> Footer:
    """The footer that the file would have, with the first `limit` rows. `text_columns` are those in the prompt.

    The bytes are those of a mean row, so equal for all rows.
    """
    rows = crossing.num_rows if limit is None else min(limit, crossing.num_rows)
    text = crossing.mean_text_bytes(tuple(text_columns))
    total = crossing.mean_text_bytes(crossing.names)
    groups = _groups(rows, max(_MIN_GROUP_ROWS, rows // _GROUPS), text, total)
    return Footer(file_of(crossing), crossing.schema, tuple(groups))


def cross_footers(footers: Sequence[Footer], crossing: Crossing, *, text_columns: Iterable[str]) -> list[Footer]:
    """The footers that the files would have, if every row were crossed with all rows of the crossing.

    Their row groups are smaller than those of the files, so that a part has no more rows than others.
    """
    each = crossing.num_rows
    text = crossing.mean_text_bytes(tuple(text_columns))
    total = crossing.mean_text_bytes(crossing.names)
    size = max(_MIN_GROUP_ROWS, sum(footer.rows for footer in footers) * each // _GROUPS)

    def cross(group: RowGroup) -> Iterator[RowGroup]:
        rows = group.rows * each
        return _groups(rows, size, text + group.text_bytes / group.rows, total + group.all_bytes / group.rows)

    return [
        replace(footer, row_groups=tuple(small for group in footer.row_groups if group.rows for small in cross(group)))
        for footer in footers
    ]


def _groups(rows: int, size: int, text: float, total: float) -> Iterator[RowGroup]:
    """Row groups of `size` rows, and one of the rest. `text` and `total` are mean bytes of a row."""
    for start in range(0, rows, size):
        count = min(size, rows - start)
        yield RowGroup(count, round(count * text), round(count * total))
