"""Memory is bounded on purpose: by a part's rows, tokens and bytes, and by how many parts are under way.

Each is measured in a process of its own, so that nothing else is in its figure. `python -m tests.scale` does the same
at full size; docs/scale.md has its tables.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.scale.idle_job import run_idle
from tests.scale.inputs import write_large_file, write_many_files, write_short_rows

MIB = 1 << 20
READ = """
import json, resource, sys
from jobs.settings import build_spec
from pipeline.plan import plan_job
from pipeline.read import read_part
from pipeline.storage import Storage
plan = plan_job(build_spec("classify", json.loads(sys.argv[1])))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
most = max((read_part(part, Storage()).nbytes for part in plan.parts[-int(sys.argv[2]):]), default=0)
print(len(plan.parts), most, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def read_parts(source: Path, count: int) -> tuple[int, int, int]:
    """Parts of the plan, bytes of the largest of the last `count` parts, and how far reading them drove memory up."""
    spec = json.dumps({"input": str(source), "output": "/nonexistent/out", "labels": "sport,economics"})
    done = subprocess.run(
        [sys.executable, "-c", READ, spec, str(count)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    parts, most, grown = map(int, done.stdout.split())
    return parts, most, grown


def test_a_part_of_a_giant_row_group_is_read_without_the_group(tmp_path: Path) -> None:
    """250 MB in one row group; the last part, for which all of it is decoded, costs little more than its own rows."""
    write_large_file(tmp_path / "in" / "large.parquet", 250 * 10**6, row_groups=1)
    parts, most, grown = read_parts(tmp_path / "in", 1)
    assert parts >= 16
    assert grown < 4 * most + 100 * MIB < 200 * MIB


def test_the_plan_of_ten_thousand_files_is_small(tmp_path: Path) -> None:
    write_many_files(tmp_path / "in", 10_000)
    parts, _, grown = read_parts(tmp_path / "in", 0)
    assert parts == 10_000
    assert grown < 50 * MIB


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.ray
def test_four_times_the_rows_take_no_more_memory(tmp_path: Path) -> None:
    """Peaks of every process: 0.5 and 2 million rows. Parts have their full size in both."""
    wholes = []
    for count in (500_000, 2_000_000):
        write_short_rows(tmp_path / f"in-{count}", count)
        spec = {"input": str(tmp_path / f"in-{count}"), "output": str(tmp_path / f"out-{count}"), "dtype": "float32"}
        run = run_idle(spec | {"labels": "sport,economics"})
        assert run.manifest["rows"] == count
        wholes.append(run.peaks.whole)
    assert wholes[1] < 1.1 * wholes[0]
