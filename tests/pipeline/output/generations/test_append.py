"""`--append`: files that were added to the input of a complete output become further parts of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.output.conftest import MakeSpec
from tests.pipeline.output.generations.conftest import LATE, OLD, add_file, files_of, parts_of, texts_of
from tirazh.errors import OutputError, RequestError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.forecast.dry_run import dry_run
from tirazh.pipeline.job_run import JobRun
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import read_plan
from tirazh.pipeline.output.runs_file import read_runs
from tirazh.pipeline.output.seal import read_sealed_json
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.plan import plan_job

pytestmark = pytest.mark.usefixtures("no_ray")


def test_added_files_become_further_parts_and_the_old_ones_stay_byte_for_byte(
    finished: OutputFiles, make_spec: MakeSpec, answered: Callable[[], int]
) -> None:
    spec, before = make_spec(output=finished.directory, append=True), parts_of(finished)
    add_file(spec, "late.parquet", LATE)
    manifest = run_job(spec)
    assert answered() == len(LATE)
    after = parts_of(finished)
    assert after.items() >= before.items()
    assert len(after) == 5
    assert texts_of(finished) == OLD + LATE
    found = verify(finished.directory)
    assert (found.problems, found.rows, found.rows_expected) == ((), 42, 42)
    assert (manifest["rows"], manifest["num_parts"], manifest["generations"]) == (42, 5, 2)
    assert read_sealed_json(finished.storage.read(finished.own("manifest.json"))) == manifest
    assert finished.storage.names(finished.staged.directory) == {}


def test_the_new_parts_are_numbered_behind_the_old_ones(finished: OutputFiles, make_spec: MakeSpec) -> None:
    spec = make_spec(output=finished.directory, append=True)
    add_file(spec, "late.parquet", LATE)
    run_job(spec)
    assert [name.rpartition("-")[0] for name in sorted(finished.parts())] == [
        *(f"part-{index:05d}-of-00003" for index in range(3)),
        *(f"part-{index:05d}-of-00005" for index in (3, 4)),
    ]


def test_an_output_may_grow_many_times(finished: OutputFiles, make_spec: MakeSpec) -> None:
    spec = make_spec(output=finished.directory, append=True)
    expected = list(OLD)
    for night in range(3):
        before = parts_of(finished)
        added = [f"night {night} row {n}" for n in range(4)]
        add_file(spec, f"n{night}.parquet", added)
        run_job(spec)
        expected += added
        assert parts_of(finished).items() >= before.items()
        assert texts_of(finished) == expected
        assert verify(finished.directory).problems == ()


def test_nothing_new_is_a_success_that_changes_nothing(finished: OutputFiles, make_spec: MakeSpec) -> None:
    spec, lines = make_spec(output=finished.directory, append=True), list[str]()
    before = files_of(finished)
    manifest = run_job(spec, tell=lines.append)
    assert manifest["rows"] == 30
    assert lines == [f"{finished.directory} is complete, and there are no new rows; nothing was changed"]
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), Path(spec.input[0]) / "empty.parquet")
    run_job(spec)
    assert files_of(finished) == before


def test_without_append_the_refusal_names_it(finished: OutputFiles, make_spec: MakeSpec) -> None:
    spec, before = make_spec(output=finished.directory), files_of(finished)
    add_file(spec, "late.parquet", LATE)
    with pytest.raises(OutputError, match=r"is complete, and the input file .*late.parquet was added .* give --append"):
        run_job(spec)
    assert files_of(finished) == before


def test_an_output_that_was_added_to_is_complete_for_the_job_without_append(
    finished: OutputFiles, make_spec: MakeSpec
) -> None:
    spec = make_spec(output=finished.directory)
    add_file(spec, "late.parquet", LATE)
    run_job(make_spec(output=finished.directory, append=True))
    before = files_of(finished)
    assert run_job(spec)["rows"] == 42
    assert files_of(finished) == before


def test_an_unfinished_job_is_finished_first_and_added_to_by_the_same_command(
    finished: OutputFiles, make_spec: MakeSpec, answered: Callable[[], int]
) -> None:
    spec = make_spec(output=finished.directory, append=True)
    finished.storage.remove(finished.part(min(finished.parts())))
    add_file(spec, "late.parquet", LATE)
    assert run_job(spec)["rows"] == 42
    assert answered() == 10 + len(LATE)
    assert texts_of(finished) == OLD + LATE
    assert verify(finished.directory).problems == ()


def test_a_file_that_is_removed_later_stays_in_the_output(finished: OutputFiles, make_spec: MakeSpec) -> None:
    spec, lines = make_spec(output=finished.directory, append=True), list[str]()
    (Path(spec.input[0]) / "a.parquet").unlink()
    add_file(spec, "late.parquet", LATE)
    assert run_job(spec, tell=lines.append)["rows"] == 42
    assert sum("was removed since the job started" in line for line in lines) == 1
    assert texts_of(finished) == OLD + LATE


def test_a_file_with_other_rows_is_refused_as_before(finished: OutputFiles, make_spec: MakeSpec) -> None:
    spec, before = make_spec(output=finished.directory, append=True), files_of(finished)
    add_file(spec, "a.parquet", [f"edited {n}" for n in range(30)])
    add_file(spec, "late.parquet", LATE)
    with pytest.raises(OutputError, match=r"a\.parquet has changed since part-00000"):
        run_job(spec)
    assert files_of(finished) == before


def test_a_damaged_part_of_an_earlier_generation_is_made_again_in_its_place(
    finished: OutputFiles, make_spec: MakeSpec
) -> None:
    spec = make_spec(output=finished.directory, append=True)
    add_file(spec, "late.parquet", LATE)
    run_job(spec)
    before = parts_of(finished)
    for name in sorted(before)[1], sorted(before)[3]:
        finished.storage.write(finished.part(name), before[name][:-20])
    run_job(spec)
    assert parts_of(finished) == before
    assert verify(finished.directory).problems == ()


def test_a_column_that_the_new_file_lacks_is_null(finished: OutputFiles, make_spec: MakeSpec) -> None:
    spec = make_spec(output=finished.directory, append=True)
    add_file(spec, "late.parquet", LATE, desk=None)
    run_job(spec)
    last = pq.read_table(pa.BufferReader(finished.storage.read(finished.part(max(finished.parts())))))
    assert last["desk"].to_pylist() == [None, None]
    assert verify(finished.directory).problems == ()


@pytest.mark.parametrize(
    ("columns", "reason"),
    [({"author": ["x"] * 12}, "column 'author' is new"), ({"desk": [1] * 12}, "column 'desk'")],
    ids=["another column", "another type"],
)
def test_columns_that_do_not_go_with_the_output_are_refused(
    finished: OutputFiles, make_spec: MakeSpec, columns: dict[str, Any], reason: str
) -> None:
    spec, before = make_spec(output=finished.directory, append=True), files_of(finished)
    add_file(spec, "late.parquet", LATE, **columns)
    with pytest.raises(RequestError, match=reason):
        run_job(spec)
    assert files_of(finished) == before


def test_the_new_file_may_be_named_alone(finished: OutputFiles, make_spec: MakeSpec, tmp_path: Path) -> None:
    """As with a date in the path of the input: the earlier files are not named any more."""
    (tmp_path / "other").mkdir()
    spec = make_spec(output=finished.directory, append=True, input=(str(tmp_path / "other" / "late.parquet"),))
    pq.write_table(pa.table({"text": LATE, "topic": ["x"] * 12, "desk": ["x"] * 12}), spec.input[0])
    assert run_job(spec)["rows"] == 42
    assert verify(finished.directory).problems == ()
    before = files_of(finished)
    assert run_job(spec)["rows"] == 42
    assert files_of(finished) == before


def test_a_plan_says_before_how_many_rows_are_new(finished: OutputFiles, make_spec: MakeSpec) -> None:
    spec, before = make_spec(output=finished.directory, append=True), files_of(finished)
    add_file(spec, "late.parquet", LATE)
    found = dry_run(spec, plan_job(spec))
    assert found["would"] == "add 12 new rows in 2 parts to the 30 rows of the output"
    assert found["output_state"] == "complete"
    assert files_of(finished) == before


def test_an_interrupted_append_is_continued_although_more_files_came_meanwhile(
    finished: OutputFiles, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, answered: Callable[[], int]
) -> None:
    spec, before = make_spec(output=finished.directory, append=True), files_of(finished)
    add_file(spec, "late.parquet", LATE)
    make = JobRun.make

    def dying(self: JobRun, parts: list[Any]) -> dict[str, Any]:
        make(self, parts[:1])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(JobRun, "make", dying)
        with pytest.raises(KeyboardInterrupt):
            run_job(spec)
    assert files_of(finished) == before
    assert len(finished.staged.parts()) == 1
    add_file(spec, "later.parquet", ["later"])
    assert run_job(spec)["rows"] == 43
    assert answered() == len(LATE) + 1
    assert texts_of(finished) == [*OLD, *LATE, "later"]
    assert verify(finished.directory).problems == ()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"append": True, "limit": 3}, "--append and --limit"),
        ({"append": True, "overwrite": True}, "--append keeps the output and --overwrite replaces it"),
        ({"retry_failed": True, "overwrite": True}, "--retry-failed keeps the output"),
        ({"key": "text"}, "--key is for --append"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    make_spec: MakeSpec, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RequestError, match=reason):
        run_job(make_spec(**settings))


def test_a_stored_plan_with_generations_is_read_as_it_was_written(finished: OutputFiles, make_spec: MakeSpec) -> None:
    spec = make_spec(output=finished.directory, append=True)
    add_file(spec, "late.parquet", LATE)
    run_job(spec)
    stored = read_plan(finished)
    assert stored is not None
    assert stored.placed is not None
    values = json.loads(finished.storage.read(finished.own("plan.json")))
    assert (values["format"], values["plan_id"], values["rows"]) == (5, stored.id, 42)
    assert finished.completed_plan() == stored.id


def test_the_history_counts_the_rows_that_a_run_has_added(finished: OutputFiles, make_spec: MakeSpec) -> None:
    spec = make_spec(output=finished.directory, append=True)
    add_file(spec, "late.parquet", ["late 1", "late 2"])
    run_job(spec)
    runs = read_runs(finished)
    assert [(run["rows_made"], run["rows_total"]) for run in runs] == [(30, 30), (2, 32)]
