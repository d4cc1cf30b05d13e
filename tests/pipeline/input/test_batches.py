"""Batches follow the bytes of rows: each row is read once, and memory does not depend on how wide rows are."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tirazh.errors import InputError
from tirazh.pipeline.input import batches
from tirazh.pipeline.input.batches import BATCH_BYTES, MAX_BATCH_ROWS, read_batches
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.read import read_rows
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.filesystem import Storage

BOUND = 4_096


@pytest.fixture(autouse=True, scope="module")
def small_bound() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "BATCH_BYTES", BOUND)
        patch.setattr(batches, "_TOLERANCE", 1)
        yield


def parquet_of(table: pa.Table, **options: Any) -> pq.ParquetFile:
    file = io.BytesIO()
    pq.write_table(table, file, store_schema=False, **options)
    return pq.ParquetFile(file)


def nested(widths: Sequence[int]) -> pa.Table:
    """Rows with texts of `widths` letters, most of them repeated; flat, in a struct and in a list."""
    texts = ["абвгд"[width % 5] * (width // 2) for width in widths]
    return pa.table(
        {
            "row": pa.array(range(len(widths)), pa.int64()),
            "flat": texts,
            "deep": [{"html": text} for text in texts],
            "list": [[text, None] if index % 3 else [] for index, text in enumerate(texts)],
        }
    )


@settings(max_examples=60, deadline=None)
@given(
    widths=st.lists(st.one_of(st.integers(0, 40), st.integers(0, 6_000)), min_size=1, max_size=80),
    group_rows=st.integers(1, 80),
    use_dictionary=st.booleans(),
    row_bytes=st.sampled_from([0, 1, 100, 2_000, 10**9]),
    data=st.data(),
)
def test_a_range_of_rows_is_read_exactly_and_large_batches_make_the_next_ones_smaller(
    widths: list[int], group_rows: int, use_dictionary: bool, row_bytes: int, data: st.DataObject
) -> None:
    table = nested(widths)
    parquet = parquet_of(table, row_group_size=group_rows, use_dictionary=use_dictionary)
    start = data.draw(st.integers(0, table.num_rows - 1), label="start")
    rows = data.draw(st.integers(1, table.num_rows - start), label="rows")
    groups = range(parquet.num_row_groups)
    read = list(read_batches(parquet, groups, skip=start, rows=rows, row_bytes=row_bytes))
    assert pa.Table.from_batches(read).equals(table.slice(start, rows).cast(read[0].schema))
    large = [batch for batch in read if batch.num_rows > 1 and batch.nbytes > BOUND]
    assert len(large) <= MAX_BATCH_ROWS.bit_length(), "the size is halved after each"


@settings(max_examples=30, deadline=None)
@given(width=st.integers(0, 9_000), rows=st.integers(1, 60), use_dictionary=st.booleans())
def test_no_batch_is_larger_than_the_bound_unless_it_is_one_row(width: int, rows: int, use_dictionary: bool) -> None:
    table = nested([width] * rows)
    parquet = parquet_of(table, use_dictionary=use_dictionary)
    for batch in read_batches(parquet, [0], skip=0, rows=rows, row_bytes=1 + 2 * table.nbytes // rows):
        assert batch.num_rows == 1 or batch.nbytes <= BOUND


def test_rows_that_end_early_are_no_error_of_the_reader() -> None:
    parquet = parquet_of(nested([4] * 10), row_group_size=3)
    read = list(read_batches(parquet, [1, 2], skip=1, rows=100, row_bytes=0))
    assert [row for batch in read for row in batch.column("row").to_pylist()] == [4, 5, 6, 7, 8]


class PickyFile:
    """Refuses batches of more than `most` rows, as pyarrow does with more than 2 GiB in a nested column."""

    def __init__(self, parquet: pq.ParquetFile, most: int) -> None:
        self._parquet, self._most = parquet, most
        self.metadata, self.schema_arrow = parquet.metadata, parquet.schema_arrow

    def iter_batches(self, *, batch_size: int, row_groups: list[int], columns: list[str] | None) -> Any:
        if batch_size > self._most:
            raise pa.ArrowNotImplementedError("Nested data conversions not implemented for chunked array outputs")
        return self._parquet.iter_batches(batch_size=batch_size, row_groups=row_groups)


def test_batches_that_pyarrow_cannot_build_are_read_in_smaller_ones() -> None:
    parquet: Any = PickyFile(parquet_of(nested([4] * 50)), most=7)
    read = list(read_batches(parquet, [0], skip=5, rows=40, row_bytes=0))
    assert [row for batch in read for row in batch.column("row").to_pylist()] == list(range(5, 45))


def test_what_pyarrow_does_not_support_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(nested([4] * 5), path)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", PickyFile(pq.ParquetFile(path), most=0).iter_batches)
    with pytest.raises(InputError) as caught:
        read_rows(Part(0, 1, StoredFile(str(path), path.name, path.stat().st_size, ""), 0, 5), Storage())
    assert "rows 0 to 4 of" in str(caught.value)
    assert "does not support something in them (Nested data conversions" in str(caught.value)
    assert "damaged" not in str(caught.value)


PEAK_MEMORY = """
import sys
from pathlib import Path
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.read import read_rows
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.filesystem import Storage
import pyarrow.compute
def peak():  # KiB; `ru_maxrss` would begin at the memory of the process that has started this one
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
path, start, stop, row_bytes = sys.argv[1], *map(int, sys.argv[2:])
before = peak()
table = read_rows(Part(0, 1, StoredFile(path, "a", 0, ""), start, stop, "", row_bytes), Storage())
print(table.nbytes, 1024 * (peak() - before))
"""


@pytest.mark.slow
@pytest.mark.parametrize("use_dictionary", [False, True])
def test_the_memory_of_a_part_does_not_depend_on_the_row_group_around_it(tmp_path: Path, use_dictionary: bool) -> None:
    """A part of 100 MiB, in the middle of a row group of 2.3 GB in a nested column."""
    path, rows, width = tmp_path / "wide.parquet", 9_000, 265_000
    texts = [letter * width for letter in "abc"]
    column = pa.array([{"html": texts[row % 3]} for row in range(100)])
    batch = pa.record_batch({"row": pa.array(range(100)), "raw": column})
    pq.write_table(
        pa.Table.from_batches([batch] * (rows // 100)),
        path,
        compression="zstd",
        use_dictionary=use_dictionary,
        row_group_size=rows,
        store_schema=False,
    )
    arguments = [str(path), "4000", "4400", str(width)]
    done = subprocess.run([sys.executable, "-c", PEAK_MEMORY, *arguments], capture_output=True, text=True, check=True)
    size, peak = map(int, done.stdout.split())
    assert size >= 400 * width
    assert peak <= size + 6 * BATCH_BYTES, "the part, and some batches"
