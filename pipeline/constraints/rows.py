"""The constraint of each row of a part."""

from __future__ import annotations

import pyarrow as pa

from tirazh.model.requests import Constraint
from tirazh.pipeline.column_values import values_of


def row_constraints(table: pa.Table, constraint: Constraint | None, column: str | None) -> list[Constraint | None]:
    """Return the job's constraint for every row or, with `column`, that row's own schema.

    A null is no schema, which the replica says in the row's error. Rows with equal schemas share one object, so that
    it crosses processes once.
    """
    if column is None:
        return [constraint] * table.num_rows
    known: dict[str, Constraint] = {}
    texts = [value if isinstance(value, str) else "" for value in values_of(table.column(column))]
    return [known.setdefault(text, Constraint("schema", text)) for text in texts]
