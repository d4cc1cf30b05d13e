"""What a plan lists: input files with their cuts, parts of earlier generations, and the plan that it continues."""

from __future__ import annotations

from dataclasses import dataclass

from tirazh.pipeline.input.row_mask import RowMask
from tirazh.pipeline.storage.disk import StoredFile


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """An input file and the row numbers where its parts start, followed by the end of the last part.

    `row_bytes` is the estimated size of a decoded row, in bytes, 0 if it is unknown. A reader chooses its
    batches by it; nothing that is written depends on it. `left_out` are the rows that the output does not have, since
    it has rows with their keys.
    """

    file: StoredFile
    cuts: tuple[int, ...]
    row_bytes: int = 0
    left_out: RowMask | None = None


@dataclass(frozen=True, slots=True)
class PlacedPart:
    """A part of a plan with generations: its number and that of the parts, as in its name, and where its rows are.

    `plan_id` is the id of the plan that it was made for, empty for the plan that lists it. `ranges` are
    (number of the file in the plan, first row, end).
    """

    index: int
    total: int
    plan_id: str
    ranges: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Continued:
    """The plan that another one continues: its id, and what is done with its output.

    `step` is "append" (rows of more files), "retry" (rows with an error are answered again) or "join" (small parts
    become larger ones).
    """

    plan_id: str
    step: str
