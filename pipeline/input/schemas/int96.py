"""Refuses INT96 timestamps with digits below a microsecond, which are read as microseconds and would lose them.

Spark writes microseconds as INT96; Impala, Hive and old versions of pandas may write nanoseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError
from tirazh.pipeline.storage.errors import show_uri

_BATCH_ROWS = 8_192


def refuse_nanoseconds(table: pa.Table, parquet: pq.ParquetFile, groups: Sequence[int], first: int, uri: str) -> None:
    """Raise InputError if an INT96 column of `table` has nanoseconds in the file.

    `table` has the rows of `groups` from row `first` on, with microseconds; `parquet` reads INT96 as nanoseconds. Only
    INT96 columns are read again.
    """
    names = [name for name in int96_columns(parquet.metadata) if name in table.column_names]
    if not names:
        return
    row = -first
    for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, row_groups=list(groups), columns=names):
        start, stop = max(row, 0), min(row + batch.num_rows, table.num_rows)
        for name in names if start < stop else ():
            exact: Any = batch.column(name).slice(start - row, stop - start)
            read = table.column(name).slice(start, stop - start)
            # Both wrap around outside of the years of nanoseconds, and so stay comparable.
            if not read.cast(exact.type, safe=False).equals(pa.chunked_array([exact])):
                raise InputError(
                    f"{show_uri(uri)} has INT96 timestamps with nanoseconds in column {name!r}, which are read as "
                    "microseconds and would lose digits; write the column as INT64 timestamps"
                )
        row += batch.num_rows


def int96_columns(metadata: pq.FileMetaData) -> list[str]:
    """The top-level columns that contain INT96."""
    schema, tops = metadata.schema, metadata.schema.to_arrow_schema().names
    found = [schema.column(index) for index in range(len(schema))]
    paths = [column.path for column in found if column.physical_type == "INT96"]
    return [name for name in tops if any(path == name or path.startswith(f"{name}.") for path in paths)]
