"""The least certain rows of an output are exact, read by projection, and found in any number of parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tirazh.pipeline.report import least_certain
from tirazh.pipeline.report.least_certain import LEAST_CERTAIN, Place, Scan, scan_output
from tirazh.pipeline.storage.filesystem import Storage

COLUMNS: dict[str, Any] = {"confidences": {"": "confidence"}, "error": "error", "shown": ["text", "confidence"]}
Parts = list[tuple[str, int]]


def write_parts(folder: Path, parts: Sequence[Sequence[float | None]], *, row_group_size: int = 4) -> Parts:
    found = []
    for number, values in enumerate(parts):
        table = pa.table(
            {
                "text": [f"text {number} {row}" for row in range(len(values))],
                "confidence": pa.array(values, pa.float32()),
                "error": pa.array(
                    [None if each is not None else f"error {row % 3}" for row, each in enumerate(values)]
                ),
            }
        )
        path = folder / f"part-{number:05d}.parquet"
        pq.write_table(table, path, row_group_size=row_group_size)
        found.append((str(path), len(values)))
    return found


def scan(parts: Parts, **changes: Any) -> Scan:
    found = scan_output(Storage(), parts, **{**COLUMNS, **changes})
    assert found is not None
    return found


@settings(max_examples=25)
@given(st.lists(st.lists(st.none() | st.floats(0, 1, width=32), min_size=1, max_size=40), min_size=1, max_size=5))
def test_they_are_those_of_sorting_all_rows(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[float | None]]
) -> None:
    found = scan(write_parts(tmp_path_factory.mktemp("parts"), parts))
    rows = [
        (each, Place(part, row))
        for part, values in enumerate(parts)
        for row, each in enumerate(values)
        if each is not None
    ]
    assert found.least.get("", []) == [place for _, place in sorted(rows)[:LEAST_CERTAIN]]
    for place in found.least.get("", []):
        assert found.values[place]["text"] == f"text {place.part} {place.row}"
    assert found.scanned == found.rows == sum(map(len, parts))


def test_every_error_has_its_first_row(tmp_path: Path) -> None:
    parts = write_parts(tmp_path, [[0.5, 0.6], [None, None, 0.1, None, None]])
    assert scan(parts).errors == {"error 0": Place(1, 0), "error 1": Place(1, 1)}
    assert scan(parts, error=None).errors == {}


def test_a_large_output_is_read_in_part_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(least_certain, "MOST_ROWS", 100)
    values = np.linspace(0, 1, 1_000).reshape(50, 20)
    found = scan(write_parts(tmp_path, values.tolist()))
    assert found.rows == 1_000
    assert 60 <= found.scanned <= 140
    assert found.least[""][0] == Place(0, 0)


def test_only_confidences_and_the_row_groups_of_the_found_rows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, Any]] = []

    class Watched(pq.ParquetFile):
        def read(self, *args: Any, **options: Any) -> pa.Table:
            read.append(("file", options["columns"]))
            return super().read(*args, **options)

        def read_row_group(self, i: int, *args: Any, **options: Any) -> pa.Table:
            read.append(("group", i))
            return super().read_row_group(i, *args, **options)

    monkeypatch.setattr(pq, "ParquetFile", Watched)
    parts = write_parts(tmp_path, [[0.9] * 40 + [0.1] * 20])
    scan(parts, error=None)
    assert read[0] == ("file", ["confidence"])
    assert [group for kind, group in read if kind == "group"] == [10, 11, 12, 13, 14]


def test_an_output_that_cannot_be_read_has_a_page_without_them(tmp_path: Path) -> None:
    (tmp_path / "part.parquet").write_bytes(b"no Parquet")
    assert scan_output(Storage(), [(str(tmp_path / "part.parquet"), 3)], **COLUMNS) is None
    assert scan_output(Storage(), [(str(tmp_path / "none.parquet"), 3)], **COLUMNS) is None


def test_a_job_without_answers_and_errors_reads_nothing() -> None:
    found = scan_output(Storage(), [("/nowhere", 5)], confidences={}, error=None, shown=[])
    assert found == Scan(rows=5)
