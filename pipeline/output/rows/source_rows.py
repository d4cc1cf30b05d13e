"""The rows of the input that a part file has kept, where each of them has several output rows.

A file is read a row group at a time: it may hold thousands of copies of a wide row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tirazh.pipeline import schema
from tirazh.pipeline.input.changes import find_differing_value
from tirazh.pipeline.input.schemas.arrow_types import take


def read_source_rows(data: bytes, names: Sequence[str], rows_per_input_row: int, prefix: str = "") -> pa.Table:
    """Read the columns `names` of the rows that a part file was made of: one row for each row of the input.

    `data` are the bytes of the file, in which a row of the input has `rows_per_input_row` rows, the samples 0, 1, …
    of it. Raises ValueError, with the number of the output row, for samples in another order and for rows of one
    input row that differ in a column; and ArrowException, OSError or KeyError for a file that cannot be read.
    """
    if rows_per_input_row == 1:
        return pq.read_table(pa.BufferReader(data), columns=list(names))
    file, done = pq.ParquetFile(pa.BufferReader(data)), 0
    kept = [file.schema_arrow.empty_table().select(list(names))]
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=[*names, prefix + schema.SAMPLE])
        rows_M = np.arange(done, done + table.num_rows)
        _check_numbers(table, rows_M, rows_per_input_row, prefix + schema.SAMPLE)
        table = table.select(list(names))
        starts_M = rows_M // rows_per_input_row * rows_per_input_row - done
        _check_equal(table, kept[-1], starts_M, done)
        own = take(table, np.flatnonzero(starts_M == rows_M - done))
        kept += [own] if own.num_rows else []
        done += table.num_rows
    return pa.concat_tables(kept)


def _check_numbers(table: pa.Table, rows_M: NDArray[np.int64], rows_per_input_row: int, name: str) -> None:
    expected_M = rows_M % rows_per_input_row
    numbers: Any = table.column(name)
    found_M = numbers.fill_null(-1).to_numpy()
    wrong_M = np.flatnonzero(found_M != expected_M)
    if wrong_M.size:
        row = wrong_M[0]
        raise ValueError(f"row {rows_M[row]} has {name} {found_M[row]} instead of {expected_M[row]}")


def _check_equal(table: pa.Table, before: pa.Table, starts_M: NDArray[np.int64], done: int) -> None:
    """Raise ValueError unless all rows have the values of the first row of the same input row.

    `starts_M` are the places of those first rows in `table`; a negative one is the last row of `before`. `done` is
    the number of the first row of `table` in the file.
    """
    earlier = int((starts_M < 0).sum())
    last = take(before.slice(max(0, before.num_rows - 1)), np.zeros(earlier, np.int64))
    first = take(table, starts_M[earlier:])
    for place, rows, expected in ((0, table.slice(0, earlier), last), (earlier, table.slice(earlier), first)):
        found = find_differing_value(rows, expected)
        if found is not None:
            row = done + place + found[0]
            raise ValueError(
                f"row {row} is a sample of another input row than row {row - 1}, or its {found[1]!r} differs"
            )
