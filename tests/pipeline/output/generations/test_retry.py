"""`--retry-failed`: rows with an error are answered again, and all others keep their values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from tests.pipeline import without_ray
from tests.pipeline.output.conftest import MakeSpec
from tests.pipeline.output.generations.conftest import LATE, OLD, add_file, files_of, parts_of, rows_of, texts_of
from tirazh.errors import JobError
from tirazh.pipeline import schema
from tirazh.pipeline.build import run_job
from tirazh.pipeline.forecast.dry_run import dry_run
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.runs_file import read_runs
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.plan import plan_job

pytestmark = pytest.mark.usefixtures("no_ray")


@contextmanager
def failing(*texts: str) -> Iterator[list[str]]:
    """Inside the block the rows with these texts get an error; yields the texts that were asked for."""
    asked: list[str] = []
    answer = without_ray.with_scores

    def with_errors(table: pa.Table) -> pa.Table:
        own = table.column("text").to_pylist()
        asked.extend(own)
        scored = answer(table)
        errors = ["the logits are not finite" if text in texts else None for text in own]
        for name, kind in (
            (schema.ROW_ERROR, pa.string()),
            (schema.LABEL_LOGPROBS, None),
            (schema.NUM_PROMPT_IDS, None),
        ):
            old = scored.column(name).to_pylist()
            new = [
                error or value if name == schema.ROW_ERROR else (None if error else value)
                for error, value in zip(errors, old, strict=True)
            ]
            column = pa.array(new, kind or scored.schema.field(name).type)
            scored = scored.set_column(scored.column_names.index(name), name, column)
        return scored

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(without_ray, "with_scores", with_errors)
        yield asked


@pytest.fixture
def failed(make_spec: MakeSpec, job_output: OutputFiles) -> OutputFiles:
    """A complete output of three parts, in the first and the last of which rows have errors."""
    with failing("text 3", "text 4", "text 25"):
        assert run_job(make_spec(output=job_output.directory, max_error_rate=0.2))["errors"] == 3
    return job_output


def test_only_rows_with_an_error_are_answered_again(failed: OutputFiles, make_spec: MakeSpec) -> None:
    before, rows = parts_of(failed), rows_of(failed)
    with failing() as asked:
        manifest = run_job(make_spec(output=failed.directory, retry_failed=True))
    assert asked == ["text 3", "text 4", "text 25"]
    assert manifest["errors"] == 0
    after = rows_of(failed)
    assert texts_of(failed) == OLD
    assert [row["error"] for row in after] == [None] * 30
    assert [new for new, old in zip(after, rows, strict=True) if old["error"] is None] == [
        row for row in rows if row["error"] is None
    ]
    middle = sorted(before)[1]
    assert parts_of(failed)[middle] == before[middle], "a file without such rows is not replaced"
    assert len(set(parts_of(failed)) & set(before)) == 1
    assert verify(failed.directory).problems == ()


def test_values_of_other_rows_stay_bit_for_bit(failed: OutputFiles, make_spec: MakeSpec) -> None:
    """Also where another machine would give other last bits."""
    before = {row["text"]: row for row in rows_of(failed) if row["error"] is None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(without_ray, "LOGPROBS", [-1.0, -0.5])
        run_job(make_spec(output=failed.directory, retry_failed=True))
    after = {row["text"]: row for row in rows_of(failed)}
    assert {text: after[text] for text in before} == before
    assert {after[text]["label"] for text in after.keys() - before.keys()} == {"economics"}


def test_rows_that_fail_again_keep_their_error(failed: OutputFiles, make_spec: MakeSpec) -> None:
    spec = make_spec(output=failed.directory, retry_failed=True, max_error_rate=0.2)
    with failing("text 4"):
        assert run_job(spec)["errors"] == 1
    assert [row["text"] for row in rows_of(failed) if row["error"] is not None] == ["text 4"]
    with failing() as asked:
        assert run_job(spec)["errors"] == 0
    assert asked == ["text 4"]
    assert verify(failed.directory).problems == ()


def test_nothing_to_retry_is_a_success_that_changes_nothing(finished: OutputFiles, make_spec: MakeSpec) -> None:
    before, lines = files_of(finished), list[str]()
    assert run_job(make_spec(output=finished.directory, retry_failed=True), tell=lines.append)["rows"] == 30
    assert lines == [f"{finished.directory} is complete, and there are no rows with an error; nothing was changed"]
    assert files_of(finished) == before


@pytest.fixture
def over_budget(make_spec: MakeSpec, job_output: OutputFiles) -> OutputFiles:
    """An output whose job failed by its error rate: all parts are there, and no `_SUCCESS`."""
    with failing("text 23", "text 24", "text 25"), pytest.raises(JobError, match="3 of 30 rows have errors"):
        run_job(make_spec(output=job_output.directory, max_error_rate=0.05))
    assert len(job_output.parts()) == 3
    assert not job_output.is_complete()
    return job_output


def test_a_job_that_failed_by_its_error_rate_is_completed(over_budget: OutputFiles, make_spec: MakeSpec) -> None:
    spec = make_spec(output=over_budget.directory, max_error_rate=0.05)
    with pytest.raises(JobError):
        run_job(spec)
    with failing("text 24") as asked:
        assert run_job(replace(spec, retry_failed=True))["errors"] == 1
    assert asked == ["text 23", "text 24", "text 25"]
    assert over_budget.is_complete()
    assert "failure.json" not in over_budget.storage.names(over_budget.own())
    assert verify(over_budget.directory).problems == ()


def test_a_plan_says_what_is_answered_again_of_a_job_that_failed(over_budget: OutputFiles, make_spec: MakeSpec) -> None:
    spec = make_spec(output=over_budget.directory, max_error_rate=0.05, retry_failed=True)
    assert dry_run(spec, plan_job(spec))["would"].startswith("answer 3 rows with an error again, in 1 part")


def test_a_retry_that_stays_over_the_error_rate_keeps_its_new_answers(
    over_budget: OutputFiles, make_spec: MakeSpec
) -> None:
    spec = make_spec(output=over_budget.directory, max_error_rate=0.05, retry_failed=True)
    with failing("text 24", "text 25"), pytest.raises(JobError, match="2 of 30 rows have errors"):
        run_job(spec)
    assert not over_budget.is_complete()
    assert json.loads(over_budget.storage.read(over_budget.own("failure.json")))["errors"] == 2
    with failing() as asked:
        assert run_job(spec)["errors"] == 0
    assert asked == ["text 24", "text 25"]
    assert verify(over_budget.directory).problems == ()


def test_an_unfinished_job_is_finished_first(failed: OutputFiles, make_spec: MakeSpec) -> None:
    failed.storage.remove(failed.part(sorted(failed.parts())[1]))
    with failing() as asked:
        assert run_job(make_spec(output=failed.directory, retry_failed=True, max_error_rate=0.2))["errors"] == 0
    assert sorted(asked) == sorted([*OLD[10:20], "text 3", "text 4", "text 25"])
    assert verify(failed.directory).problems == ()


def test_failed_rows_are_answered_again_before_files_are_added(failed: OutputFiles, make_spec: MakeSpec) -> None:
    spec = make_spec(output=failed.directory, retry_failed=True, append=True, key="text")
    add_file(spec, "late.parquet", [*OLD[:5], *LATE])
    with failing() as asked:
        manifest = run_job(spec)
    assert asked == ["text 3", "text 4", "text 25", *LATE]
    assert (manifest["rows"], manifest["errors"], manifest["generations"]) == (42, 0, 3)
    assert verify(failed.directory).problems == ()


def test_the_input_may_be_gone(failed: OutputFiles, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(output=failed.directory, retry_failed=True, append=True)
    (tmp_path / "in/a.parquet").unlink()
    add_file(spec, "late.parquet", LATE)
    with failing():
        assert run_job(spec)["errors"] == 0
    assert texts_of(failed) == OLD + LATE


def test_a_plan_says_what_would_be_answered_again(failed: OutputFiles, make_spec: MakeSpec) -> None:
    before = files_of(failed)
    spec = make_spec(output=failed.directory, retry_failed=True, max_error_rate=0.2)
    would = dry_run(spec, plan_job(spec))["would"]
    assert would == "answer 3 rows with an error again, in 2 parts; all other rows stay as they are"
    assert files_of(failed) == before


def test_the_history_counts_the_rows_that_are_answered_again(failed: OutputFiles, make_spec: MakeSpec) -> None:
    errors = sum(row["error"] is not None for row in rows_of(failed))
    run_job(make_spec(output=failed.directory, retry_failed=True))
    assert [run["rows_made"] for run in read_runs(failed)][-1] == errors
