"""docs/synthetic-data.md: its job files are valid jobs, and its lists are planned as it says."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.docs.texts import REPOSITORY, fenced_blocks
from tirazh.jobs.job_files.job_file import spec_from_file
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.spec import GenerateSpec

PAGE = REPOSITORY / "docs/synthetic-data.md"
JOBS = [block for block in fenced_blocks(PAGE, "yaml") if "kind: generate" in block]


@pytest.mark.parametrize("number", range(len(JOBS)))
def test_a_job_file_of_the_page_is_a_valid_job(number: int, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(JOBS[number], encoding="utf-8")
    assert spec_from_file(file).output


def test_the_crossing_of_the_page_finds_its_lists_beside_it_and_makes_its_cells(tmp_path: Path) -> None:
    (job,) = [block for block in JOBS if "# crossing.yaml" in block]
    (tmp_path / "crossing.yaml").write_text(job, encoding="utf-8")
    (tmp_path / "topics.txt").write_text("наука\nспорт\n", encoding="utf-8")
    pl.DataFrame({"id": [1, 2], "description": ["a", "b"]}).write_parquet(tmp_path / "personas.parquet")
    spec = spec_from_file(tmp_path / "crossing.yaml")
    assert isinstance(spec, GenerateSpec)
    assert plan_job(spec).rows == 2 * 3 * 2 * 2 * 20
