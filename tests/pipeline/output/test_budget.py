"""The error budget of a job holds over all of its runs together."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pipeline.output.conftest import MakeSpec
from tirazh.errors import JobError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.output.budget import MIN_ANSWERED, ErrorBudget
from tirazh.pipeline.output.report import write_report
from tirazh.pipeline.spec import ClassifySpec


def fails(budget: ErrorBudget, errors: int, answered: int) -> bool:
    try:
        budget.check(errors=errors, answered=answered)
    except JobError:
        return True
    return False


@given(st.floats(0, 1), st.integers(1, 10**6), st.data())
def test_more_errors_than_the_rate_allows_for_the_whole_job_always_fail(
    rate: float, rows: int, data: st.DataObject
) -> None:
    errors = data.draw(st.integers(0, rows))
    assert fails(ErrorBudget(rate, rows), errors, rows) == (errors > rate * rows)


@given(st.floats(0, 1), st.integers(1, MIN_ANSWERED - 1), st.integers(0, 100))
def test_few_rows_never_stop_a_job_early(rate: float, answered: int, errors: int) -> None:
    rows = 10**9
    assert fails(ErrorBudget(rate, rows), min(errors, answered), answered) == (min(errors, answered) > rate * rows)


def test_a_job_of_broken_rows_stops_after_a_thousand_of_them() -> None:
    budget = ErrorBudget(0.1, 1_000_000)
    budget.check(errors=999, answered=999)
    with pytest.raises(
        JobError, match=r"1,000 of the first 1,000 rows have errors.*0\.1 of them.*stopped before its 1,0"
    ):
        budget.check(errors=1_000, answered=1_000)


def test_chance_does_not_stop_a_job() -> None:
    budget = ErrorBudget(0.1, 1_000_000)
    budget.check(errors=130, answered=1_000)
    assert fails(budget, 131, 1_000)


@pytest.fixture
def third_null(write_input: Callable[..., Path], make_spec: MakeSpec, no_ray: None) -> ClassifySpec:
    """A job of 60 rows in twelve parts; the text of every third row is null."""
    write_input("a.parquet", text=[f"text {n}" if n % 3 else None for n in range(60)])
    return make_spec(part_rows=5, max_error_rate=0.1)


def test_the_same_command_fails_each_time_and_a_higher_limit_continues(
    third_null: ClassifySpec, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for _ in range(5):
        with pytest.raises(
            JobError, match=r"rows have errors, more than --max-error-rate 0\.1 allows for the 60"
        ) as caught:
            run_job(third_null)
        assert caught.value.exit_code == 1
        assert not (out / "_SUCCESS").exists()
    parts = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert 0 < len(parts) < 12, "a run that fails at its start makes no further parts"
    manifest = run_job(replace(third_null, max_error_rate=0.4))
    assert (manifest["rows"], manifest["errors"], manifest["resumed_parts"]) == (60, 20, len(parts))
    assert {name: (out / name).stat().st_mtime_ns for name in parts} == parts
    assert (out / "_SUCCESS").exists()


def test_a_limit_below_the_errors_of_a_finished_output_fails_and_leaves_it_finished(
    third_null: ClassifySpec, tmp_path: Path
) -> None:
    run_job(replace(third_null, max_error_rate=0.4))
    with pytest.raises(JobError, match="20 of 60 rows have errors"):
        run_job(third_null)
    assert (tmp_path / "out/_SUCCESS").exists()
    assert "has failed" not in (tmp_path / "out/_tirazh/report.html").read_text()


def test_errors_of_all_runs_count_when_nothing_is_left_to_make(third_null: ClassifySpec, tmp_path: Path) -> None:
    run_job(replace(third_null, max_error_rate=0.4))
    (tmp_path / "out/_SUCCESS").unlink()
    with pytest.raises(JobError, match="20 of 60 rows have errors"):
        run_job(third_null)
    assert not (tmp_path / "out/_SUCCESS").exists()


def test_a_failed_run_says_why_in_its_report_and_in_a_file_for_programs(
    third_null: ClassifySpec, tmp_path: Path
) -> None:
    with pytest.raises(JobError) as caught:
        run_job(third_null)
    page = (tmp_path / "out/_tirazh/report.html").read_text()
    assert "This job has failed:" in page
    assert str(caught.value).partition(";")[0] in page
    assert "column &#39;text&#39; is null" in page
    failure = json.loads((tmp_path / "out/_tirazh/failure.json").read_text())
    assert (failure["reason"], failure["error"], failure["exit_code"]) == (str(caught.value), "JobError", 1)
    assert (failure["rows_total"], failure["parts_total"]) == (60, 12)
    assert failure["errors"] == failure["error_kinds"]["column 'text' is null"] > 6
    (tmp_path / "out/_tirazh/report.html").unlink()
    assert Path(write_report(str(tmp_path / "out"))).read_text() == page
    run_job(replace(third_null, max_error_rate=0.4))
    assert not (tmp_path / "out/_tirazh/failure.json").exists()
    assert "has failed" not in Path(write_report(str(tmp_path / "out"))).read_text()


def test_the_report_of_an_interrupted_job_says_what_is_finished(third_null: ClassifySpec, tmp_path: Path) -> None:
    run_job(replace(third_null, max_error_rate=0.4))
    out = tmp_path / "out"
    for path in (out / "_SUCCESS", out / "_tirazh/manifest.json", min(out.glob("part-*"))):
        path.unlink()
    page = Path(write_report(str(out))).read_text()
    assert "This job is not finished:" in page
    assert "11 of 12" in page
