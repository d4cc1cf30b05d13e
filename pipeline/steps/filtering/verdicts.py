"""Splits the rows of a part by their reasons into the tables of kept and of dropped rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tirazh.pipeline import schema
from tirazh.pipeline.file_metadata import adapt_metadata
from tirazh.pipeline.input.schemas.arrow_types import take, with_metadata
from tirazh.pipeline.input.schemas.planned_schema import public_metadata
from tirazh.pipeline.steps.filtering.columns import FilterColumns
from tirazh.pipeline.steps.passed_errors import first_errors

# The reason of a row that could not be processed; the column `error` says why.
HAS_ERROR = "error"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`kept` are the rows of the part file, `dropped` those of the side file. `not_kept` numbers the dropped rows."""

    kept: pa.Table
    dropped: pa.Table
    not_kept: list[int]
    errors: int
    reasons: dict[str, int]


def split(table: pa.Table, reasons: Sequence[Sequence[str]], columns: FilterColumns) -> Verdict:
    """Split the rows of a part of the step before.

    `reasons` has the reasons of every row; a row is kept if it has none. A row with an error has no other reason: its
    columns cannot be judged.
    """
    errors = first_errors(table, columns.errors)
    has_error = [error is not None for error in errors.to_pylist()]
    found = [
        ([HAS_ERROR] if columns.drops_errors else []) if failed else list(dict.fromkeys(row))
        for failed, row in zip(has_error, reasons, strict=True)
    ]
    kept = [not row for row in found]
    full = _full_table(table, found, kept, errors, columns)
    not_kept = [row for row, is_kept in enumerate(kept) if not is_kept]
    written = full if columns.is_inline else take(full, [row for row, is_kept in enumerate(kept) if is_kept])
    dropped = full.slice(0, 0) if columns.is_inline else take(full, not_kept)
    selected = written.select(columns.kept_schema(table.schema).names)
    counts = Counter(reason for row in found for reason in row)
    shown = [failed and (is_kept or columns.is_inline) for failed, is_kept in zip(has_error, kept, strict=True)]
    return Verdict(
        kept=pa.Table.from_arrays(selected.columns, schema=_kept_schema(table.schema, columns)),
        dropped=dropped,
        not_kept=not_kept,
        errors=sum(shown),
        reasons=dict(sorted(counts.items())),
    )


def _full_table(
    table: pa.Table,
    reasons: Sequence[Sequence[str]],
    kept: Sequence[bool],
    errors: pa.ChunkedArray[Any],
    columns: FilterColumns,
) -> pa.Table:
    made = {
        schema.KEPT: pa.array(kept, pa.bool_()),
        schema.DROP_REASONS: pa.array(reasons, pa.list_(pa.string())),
        schema.ERROR: errors,
    }
    own = {schema.KEPT, schema.DROP_REASONS} | ({schema.ERROR} if columns.is_last else set())
    fields = columns.full_schema(table.schema)
    arrays: list[Any] = [made[name] if name in own else table.column(name) for name in fields.names]
    return pa.Table.from_arrays(arrays, schema=fields)


def _kept_schema(before: pa.Schema, columns: FilterColumns) -> pa.Schema:
    """The schema of the part files, with the metadata of the input where it still describes the columns."""
    fields = columns.kept_schema(before)
    if fields.names == before.names:
        return before
    if not set(before.names) <= set(fields.names):
        return pa.schema(list(fields))  # metadata that lists the columns would be wrong
    added = pa.schema([field for field in fields if field.name not in before.names])
    return with_metadata(fields, adapt_metadata(public_metadata(before), added))
