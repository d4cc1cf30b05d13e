"""Inputs of every size, written as streams: nothing here holds more than a piece of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROW_GROUP = 122_880  # rows; what DuckDB and polars write is of this order
_WORDS = "banks raised rates team won match новости экономики и спорта сегодня вечером".split()


def write_short_rows(directory: Path, num_rows: int, *, file_rows: int = 1_000_000) -> None:
    """Texts of a few signs, a million rows a file."""
    directory.mkdir(parents=True)
    for number, first in enumerate(range(0, num_rows, file_rows)):
        numbers = pa.array(np.arange(first, min(num_rows, first + file_rows)))
        texts = pc.cast(numbers, pa.string())
        pq.write_table(pa.table({"text": texts}), directory / f"{number:03d}.parquet", row_group_size=ROW_GROUP)


def write_large_file(path: Path, num_bytes: int, *, row_groups: int) -> int:
    """One file of about `num_bytes` in so many row groups; rows of 1,000 signs that do not compress. Returns rows."""
    path.parent.mkdir(parents=True)
    schema = pa.schema({"text": pa.string()})
    rows = num_bytes // 1_000
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False, write_batch_size=1_024) as writer:
        for batch in _noise(rows):
            writer.write_batch(batch, row_group_size=-(-rows // row_groups))
    return rows


def _noise(rows: int, piece: int = 8_192) -> Iterator[pa.RecordBatch]:
    """Rows of 1,000 letters. A row group is written from memory, so a giant one is held here while it is."""
    draw = np.random.default_rng(0)
    for first in range(0, rows, piece):
        count = min(piece, rows - first)
        letters = draw.integers(97, 123, count * 1_000, dtype=np.uint8)
        offsets = np.arange(0, count * 1_000 + 1, 1_000, dtype=np.int32)
        text = pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(letters))
        yield pa.record_batch([text], names=["text"])


def write_ragged_rows(path: Path) -> int:
    """Texts in no order: 20,000 of up to 2 kB, 200 of 100 kB, 20 of 10 MB. Returns rows."""
    path.parent.mkdir(parents=True)
    draw = np.random.default_rng(1)
    lengths = np.concatenate([draw.integers(1, 2_000, 20_000), np.full(200, 100_000), np.full(20, 10_000_000)])
    draw.shuffle(lengths)
    text = " ".join(_WORDS) + " "
    whole = text * (10_000_000 // len(text) + 1)
    with pq.ParquetWriter(path, pa.schema({"text": pa.string()}), compression="zstd") as writer:
        for piece in np.array_split(lengths, 40):
            writer.write_table(pa.table({"text": [whole[:length] for length in piece]}))
    return len(lengths)


def write_many_files(directory: Path, count: int) -> None:
    """The same 50 rows under `count` names, in a hundred directories."""
    first = directory / "00" / "00000.parquet"
    first.parent.mkdir(parents=True)
    pq.write_table(pa.table({"text": [f"news {number}" for number in range(50)]}), first)
    for number in range(1, count):
        folder = directory / f"{number % 100:02d}"
        folder.mkdir(exist_ok=True)
        os.link(first, folder / f"{number:05d}.parquet")
