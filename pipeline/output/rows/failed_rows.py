"""The rows of a part file whose answers have an error, and their replacement by new answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tirazh.pipeline import schema
from tirazh.pipeline.input.schemas.arrow_types import READ_OPTIONS, restore, take
from tirazh.pipeline.output.assemble import OutputLayout


def read_output_rows(data: bytes, layout: OutputLayout) -> pa.Table:
    """Read all rows of a part file, with the schema of the output. Raises ArrowException for one that is damaged."""
    table = pq.ParquetFile(pa.BufferReader(data), **READ_OPTIONS).read()
    kept = restore(table, layout.columns).combine_chunks()
    added = [table.column(field.name).cast(field.type) for field in layout.added]
    return pa.Table.from_arrays([*kept.columns, *added], schema=layout.schema)


def failed_input_rows(errors: pa.ChunkedArray[Any], rows_per_input_row: int) -> NDArray[np.bool_]:
    """Whether each row of the input has a row of the output with an error; `errors` is that column of the output."""
    failed: Any = errors.is_valid()
    failed_NS = failed.to_numpy().astype(np.bool_).reshape(-1, rows_per_input_row)
    return np.asarray(failed_NS.any(axis=1))


def replace_failed(earlier: pa.Table, made: pa.Table, layout: OutputLayout, prefix: str) -> pa.Table:
    """The rows of a part, where `made` replaces those with an error.

    `earlier` are the rows of its file and `made` the new rows of the input rows that had an error, in order. Rows of
    these without an error (other samples) stay, too.
    """
    each = layout.rows_per_input_row
    errors = earlier.column(prefix + schema.ERROR)
    asked_M = np.flatnonzero(np.repeat(failed_input_rows(errors, each), each))
    if len(asked_M) != made.num_rows:
        raise pa.ArrowInvalid(f"{made.num_rows} rows were answered again, and {len(asked_M)} have an error")
    failed: Any = errors.is_valid()
    order_N = np.arange(earlier.num_rows)
    order_N[asked_M] = np.where(
        failed.to_numpy().astype(np.bool_)[asked_M], earlier.num_rows + np.arange(len(asked_M)), asked_M
    )
    return take(pa.concat_tables([earlier, made]), order_N).combine_chunks()
