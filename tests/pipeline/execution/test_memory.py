"""Memory is bounded by the rows, tokens and bytes of a part, and by the number of parts in flight.

Each test measures a separate process. `python -m tests.scale` does the same at full size; docs/scale.md
has its tables.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.scale.idle_job import run_idle
from tests.scale.inputs import write_large_file, write_many_files, write_short_rows
from tests.scale.reading import read_parts

MIB = 1 << 20


def test_a_part_of_a_giant_row_group_is_read_without_the_group(tmp_path: Path) -> None:
    """250 MB in one row group.

    The last part decodes all of it, but takes little more memory than its own rows.
    """
    write_large_file(tmp_path / "in" / "large.parquet", 250 * 10**6, row_groups=1)
    assert pq.read_metadata(tmp_path / "in" / "large.parquet").num_row_groups == 1
    read = read_parts(str(tmp_path / "in"), 1)
    assert read.parts >= 15
    assert read.grown < 4 * read.largest + 100 * MIB < 200 * MIB


def test_the_plan_of_ten_thousand_files_is_small(tmp_path: Path) -> None:
    write_many_files(tmp_path / "in", 10_000)
    read = read_parts(str(tmp_path / "in"), 0)
    assert read.parts == 10_000
    assert read.grown < 50 * MIB


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.ray
def test_four_times_the_rows_take_no_more_memory(tmp_path: Path) -> None:
    """Compares the peak memory of all processes with 0.5 and 2 million rows.

    Parts have their full size in both.
    """
    peaks = []
    for count in (500_000, 2_000_000):
        write_short_rows(tmp_path / f"in-{count}", count)
        spec = {"input": str(tmp_path / f"in-{count}"), "output": str(tmp_path / f"out-{count}"), "dtype": "float32"}
        run = run_idle(spec | {"labels": "sport,economics"})
        assert run.manifest["rows"] == count
        peaks.append(run.peaks.whole)
    assert peaks[1] < 1.1 * peaks[0]
