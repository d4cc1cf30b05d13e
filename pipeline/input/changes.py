"""What has happened to the input of a job since it was planned, and whether finished rows are still its rows.

A listing shows which files were rewritten, removed or added. A file that was rewritten may still have
the same rows (a copy, an upload of the same bytes): then its rows are compared, one by one, with
those that a finished part has kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import pyarrow as pa

from tirazh.errors import InputError
from tirazh.pipeline.input.empty import EMPTY
from tirazh.pipeline.input.listing.files import list_inputs
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.read import read_rows
from tirazh.pipeline.input.schemas.arrow_types import comparable, restore
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage


@dataclass(frozen=True, slots=True)
class InputChanges:
    """The files of two listings of an input that differ.

    `touched` have another version but the same size, `changed` another size; both as they are now.
    `removed` are as they were planned.
    """

    touched: tuple[StoredFile, ...]
    changed: tuple[StoredFile, ...]
    removed: tuple[StoredFile, ...]
    added: tuple[StoredFile, ...]

    @property
    def rewritten(self) -> tuple[StoredFile, ...]:
        """The files that may have other rows than those that were planned."""
        return (*self.touched, *self.changed)

    def __bool__(self) -> bool:
        return bool(self.rewritten or self.removed or self.added)


def compare_inputs(planned: Iterable[StoredFile], now: Iterable[StoredFile]) -> InputChanges:
    """Compare the planned input files with those that are there now. Opens no file."""
    before, current = ({file.uri: file for file in files if file.uri != EMPTY} for files in (planned, now))
    kept = [(file, current[uri]) for uri, file in before.items() if uri in current]
    return InputChanges(
        touched=tuple(new for old, new in kept if new.size == old.size and new.version != old.version),
        changed=tuple(new for old, new in kept if new.size != old.size),
        removed=tuple(file for uri, file in before.items() if uri not in current),
        added=tuple(file for uri, file in current.items() if uri not in before),
    )


def list_remaining(storage: Storage, inputs: Sequence[str]) -> list[StoredFile]:
    """List the input as `list_inputs` does, but skip an input without files: it was removed as a whole."""
    try:
        return list_inputs(storage, inputs)
    except InputError:
        return list_inputs(storage, [uri for uri in inputs if _has_files(storage, uri)])


def _has_files(storage: Storage, uri: str) -> bool:
    try:
        return bool(list_inputs(storage, [uri]))
    except InputError:
        return False


def at_current_versions(parts: Sequence[Part], now: Iterable[StoredFile]) -> list[Part]:
    """Return `parts` with each file as it is listed now.

    The reader refuses a file of another version. The keys, on which the seeds depend, stay.
    """
    current = {file.uri: file for file in now}
    return [
        replace(part, file=replace(part.file, size=found.size, version=found.version))
        if (found := current.get(part.file.uri)) is not None
        else part
        for part in parts
    ]


def find_difference(part: Part, columns: pa.Schema, storage: Storage, finished: pa.Table) -> str | None:
    """Compare the rows of a finished part with the current rows of its input file.

    `columns` is the schema of the input and `finished` the part's table, whose first columns are
    those of the input. Returns None if they are equal, or a clause such as "row 17 differs in
    column 'text'", with the row's number in the file. The version of the file is not checked.
    """
    if part.pieces:
        ends = accumulate(piece.rows for piece in part.pieces)
        of_pieces = (
            (piece, finished.slice(end - piece.rows, piece.rows)) for piece, end in zip(part.pieces, ends, strict=True)
        )
        found = (find_difference(piece, columns, storage, rows) for piece, rows in of_pieces)
        return next((difference for difference in found if difference is not None), None)
    try:
        current = restore(read_rows(part, storage, columns), columns)
        finished = finished.select(columns.names)
    except InputError as error:
        return str(error).removeprefix(f"{show_uri(part.file.uri)} ")
    except (pa.ArrowException, KeyError, ValueError) as error:
        return f"its columns have other types ({next(iter(str(error).splitlines()), '')[:100]})"
    if current.num_rows != finished.num_rows:
        return f"it has {current.num_rows} rows instead of {finished.num_rows} from row {part.of_file.start} on"
    differing = find_differing_value(current, finished)
    if differing is None:
        return None
    row = part.row_in_file(differing[0]) // part.rows_per_file_row
    return f"row {row} differs in column {differing[1]!r}"


def find_differing_value(left: pa.Table, right: pa.Table) -> tuple[int, str] | None:
    """The first (row, column) in which two tables of equal columns and lengths differ, None if they are equal.

    Values are compared, not encodings: a dictionary is equal to its values. Raises ValueError for types whose values
    cannot be equal.
    """
    for name in left.column_names:
        row = _first_difference(left.column(name), right.column(name))
        if row is not None:
            return row, name
    return None


def _first_difference(current: pa.ChunkedArray[Any], finished: pa.ChunkedArray[Any]) -> int | None:
    now, before = comparable(current), comparable(finished)
    if now.type != before.type:
        raise ValueError(f"{current.type} instead of {finished.type}")
    if now.equals(before):
        return None
    # Parquet may write a NaN with the bits of another NaN.
    now, before = comparable(current, floats_as_text=True), comparable(finished, floats_as_text=True)
    return next(
        (row for row, (left, right) in enumerate(zip(now, before, strict=True)) if not left.equals(right)), None
    )
