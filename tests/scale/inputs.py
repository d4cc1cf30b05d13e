"""Writes large inputs as streams: no function holds more than one row group in memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROW_GROUP = 122_880  # rows; DuckDB and polars write row groups of this order of magnitude
_WORDS = "banks raised rates team won match новости экономики и спорта сегодня вечером".split()


def write_short_rows(directory: Path, num_rows: int, *, file_rows: int = 1_000_000) -> None:
    """Write texts of a few characters, a million rows per file."""
    directory.mkdir(parents=True)
    for number, first in enumerate(range(0, num_rows, file_rows)):
        row_numbers = pa.array(np.arange(first, min(num_rows, first + file_rows)))
        texts = pc.cast(row_numbers, pa.string())
        pq.write_table(pa.table({"text": texts}), directory / f"{number:03d}.parquet", row_group_size=ROW_GROUP)


def write_large_file(path: Path, num_bytes: int, *, row_groups: int) -> int:
    """Write one file of about `num_bytes` in so many row groups. Returns its rows.

    Repeats the same 8,192 rows of 1,000 letters, without dictionary and compression.
    """
    path.parent.mkdir(parents=True)
    batch = _letters(8_192)
    batches_of_a_group = max(1, num_bytes // 1_000 // batch.num_rows // row_groups)
    # The same batch many times is one batch in memory.
    group = pa.Table.from_batches([batch] * batches_of_a_group)
    with pq.ParquetWriter(path, batch.schema, compression="none", use_dictionary=False) as writer:
        for _ in range(row_groups):
            writer.write_table(group, row_group_size=group.num_rows)
    return group.num_rows * row_groups


def _letters(rows: int) -> pa.RecordBatch:
    letters = np.random.default_rng(0).integers(97, 123, rows * 1_000, dtype=np.uint8)
    offsets = np.arange(0, rows * 1_000 + 1, 1_000, dtype=np.int32)
    text = pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(letters))
    return pa.record_batch([text], names=["text"])


def write_ragged_rows(path: Path) -> int:
    """Write shuffled texts: 20,000 of up to 2 kB, 200 of 100 kB, 20 of 10 MB.

    Returns the number of rows.
    """
    path.parent.mkdir(parents=True)
    rng = np.random.default_rng(1)
    lengths = np.concatenate([rng.integers(1, 2_000, 20_000), np.full(200, 100_000), np.full(20, 10_000_000)])
    rng.shuffle(lengths)
    text = " ".join(_WORDS) + " "
    longest = text * (10_000_000 // len(text) + 1)
    with pq.ParquetWriter(path, pa.schema({"text": pa.string()}), compression="zstd") as writer:
        for chunk in np.array_split(lengths, 40):
            writer.write_table(pa.table({"text": [longest[:length] for length in chunk]}))
    return len(lengths)


def write_many_files(directory: Path, count: int) -> None:
    """Write the same 50 rows under `count` names, in a hundred directories."""
    first = directory / "00" / "00000.parquet"
    first.parent.mkdir(parents=True)
    pq.write_table(pa.table({"text": [f"news {number}" for number in range(50)]}), first)
    for number in range(1, count):
        folder = directory / f"{number % 100:02d}"
        folder.mkdir(exist_ok=True)
        os.link(first, folder / f"{number:05d}.parquet")
