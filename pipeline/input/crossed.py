"""The rows of a crossing as an input: one file that does not exist, whose parts are made by arithmetic."""

from __future__ import annotations

from collections.abc import Iterable

from tirazh.pipeline.crossing.crossing import Crossing
from tirazh.pipeline.input.footers import Footer, RowGroup
from tirazh.pipeline.storage.disk import StoredFile

# Files that do not exist have such names; no path and no address begins so.
PREFIX = "vary:"
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
    size = max(_MIN_GROUP_ROWS, rows // _GROUPS)
    text = crossing.mean_text_bytes(tuple(text_columns))
    total = crossing.mean_text_bytes(crossing.names)

    def group(count: int) -> RowGroup:
        return RowGroup(count, round(count * text), round(count * total))

    whole, rest = divmod(rows, size)
    groups = [group(size)] * whole + ([group(rest)] if rest else [])
    return Footer(file_of(crossing), crossing.schema, tuple(groups))
