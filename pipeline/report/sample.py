"""A sample of an output's rows, for the report and the dataset card.

A few parts, evenly spaced over the output, are read, and of each some evenly spaced rows. So the sample is the
same for the same output, and its cost does not grow with the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError, StorageError
from tirazh.pipeline.input.schemas.arrow_types import READ_OPTIONS, take
from tirazh.pipeline.storage.filesystem import Storage

MAX_PARTS = 16
MAX_ROWS = 10_000


def sample_rows(storage: Storage, parts: Sequence[str], columns: Sequence[str]) -> pa.Table | None:
    """Read at most `MAX_ROWS` rows of part files, in their order; of `columns` those that exist.

    `parts` are the URIs of all part files. Returns None if there is nothing to read, or if a file cannot be read:
    a page is written without texts then.
    """
    chosen = [parts[index] for index in _evenly(len(parts), MAX_PARTS)]
    try:
        tables = [_read(storage, uri, columns, MAX_ROWS // len(chosen)) for uri in chosen]
        return pa.concat_tables(tables).combine_chunks() if tables else None
    except (InputError, StorageError, pa.ArrowException, OSError):
        return None


def _read(storage: Storage, uri: str, columns: Sequence[str], most: int) -> pa.Table:
    with storage.open(uri) as file:
        parquet = pq.ParquetFile(file, **READ_OPTIONS)
        known = [column for column in columns if column in parquet.schema_arrow.names]
        table = parquet.read(columns=known)
    rows: Any = pa.array(_evenly(table.num_rows, most))
    return take(table, rows).replace_schema_metadata(None)


def _evenly(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spaced."""
    if count <= most:
        return list(range(count))
    return [int(index) for index in np.linspace(0, count - 1, most)]
