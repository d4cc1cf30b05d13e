"""Passes rows on that an earlier step could not process: a later step keeps their error and computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tirazh.pipeline import schema


@dataclass(frozen=True, slots=True)
class ErrorColumn:
    """The column with the errors of a step."""

    name: str
    step: str


def first_errors(table: pa.Table, columns: Sequence[ErrorColumn]) -> pa.ChunkedArray[Any]:
    """The error of every row of `table`, null without one: that of the first step which has one, after its name."""
    found: list[str | None] = [None] * table.num_rows
    for column in reversed(columns):  # the first step wins
        for row, error in enumerate(table.column(column.name).to_pylist()):
            if error is not None:
                found[row] = f"{column.step}: {error}"
    return pa.chunked_array([pa.array(found, pa.string())])


@dataclass(frozen=True, slots=True)
class PassErrors:
    """A prompt step for rows of earlier steps: those with an error get it again, and no prompt."""

    prompts: Callable[[pa.Table], pa.Table]
    columns: tuple[ErrorColumn, ...]

    def __call__(self, table: pa.Table) -> pa.Table:
        errors = first_errors(table, self.columns)
        made = self.prompts(table)
        if errors.null_count == len(errors):
            return made
        is_good = pc.is_null(errors)
        ids = made.column(schema.PROMPT_IDS)
        ids = pc.if_else(is_good, ids, pa.scalar(None, ids.type))
        made = _replaced(made, schema.PROMPT_IDS, ids)
        return _replaced(made, schema.ROW_ERROR, pc.if_else(is_good, made.column(schema.ROW_ERROR), errors))


def _replaced(table: pa.Table, name: str, column: pa.ChunkedArray[Any]) -> pa.Table:
    index = table.column_names.index(name)
    return table.set_column(index, name, column)
