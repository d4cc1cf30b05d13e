"""INT96 timestamps are read as microseconds, which hold every year; nanoseconds are refused."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tirazh.errors import InputError
from tirazh.pipeline.input.footers import read_footers
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.read import read_rows
from tirazh.pipeline.storage.filesystem import Storage

TIMES = [datetime(9999, 12, 31, 23, 59, 59), None, datetime(1, 1, 1), datetime(2026, 11, 28, 12, 0, 0, 1)]


def read(path: Path, array: pa.Array[Any], start: int = 0, stop: int = 4) -> pa.Table:
    pq.write_table(pa.table({"t.t": array}), path, use_deprecated_int96_timestamps=True, row_group_size=3)
    (file,) = Storage().walk(str(path))
    return read_rows(Part(0, 1, file, start, stop), Storage())


def test_int96_has_the_years_1_to_9999(tmp_path: Path) -> None:
    table = read(tmp_path / "a.parquet", pa.array(TIMES, pa.timestamp("us")))
    assert table["t.t"].to_pylist() == TIMES
    (file,) = Storage().walk(str(tmp_path / "a.parquet"))
    (footer,) = read_footers(Storage(), [file], text_columns=())
    assert footer.schema.field("t.t").type == pa.timestamp("us")


def test_int96_inside_of_lists_and_structs_has_them_too(tmp_path: Path) -> None:
    column = pa.array([[{"t": time}] for time in TIMES], pa.list_(pa.struct([("t", pa.timestamp("us"))])))
    assert read(tmp_path / "a.parquet", column)["t.t"].to_pylist() == column.to_pylist()


def test_int96_with_nanoseconds_is_refused_in_the_rows_that_have_them(tmp_path: Path) -> None:
    column = pa.array([0, 1_000, None, 1_001], pa.timestamp("ns"))
    assert read(tmp_path / "a.parquet", column, stop=3).num_rows == 3
    with pytest.raises(InputError, match=r"a\.parquet has INT96 timestamps with nanoseconds in column 't\.t'"):
        read(tmp_path / "a.parquet", column, start=2)
