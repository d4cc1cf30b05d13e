"""Every run leaves a line in the history of its output: a good one, a failed one, a stopped one and a killed one."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.output.conftest import MakeSpec
from tirazh.errors import JobError, RequestError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.history import start_time
from tirazh.pipeline.history.recorder import recording
from tirazh.pipeline.history.start_time import parse_utc
from tirazh.pipeline.job_run import JobRun
from tirazh.pipeline.output import runs_file
from tirazh.pipeline.output.leases.lease import hold
from tirazh.pipeline.output.ledger import receipt_settings
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.runs_file import read_runs
from tirazh.pipeline.output.state import survey
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.plan import plan_job

FIELDS = {
    *("run_id", "begin", "end", "host", "user", "pid", "job_id", "command", "plan_id", "outcome", "exit_code"),
    *("sentence", "rows_made", "rows_total", "errors", "parts_made", "replica_deaths", "seconds_wall", "seconds_work"),
    *("predicted", "tokens", "before"),
}


class Killed(BaseException):
    """Stands for kill -9: the process does nothing after it."""


pytestmark = pytest.mark.usefixtures("no_ray")


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, BaseException], None]:
    """`stopping(parts, error)`: the next runs make so many parts and then end by the error."""
    make = JobRun.make

    def stop(parts: int, error: BaseException) -> None:
        def some(self: JobRun, remaining: list[Any]) -> dict[str, Any]:
            make(self, remaining[:parts])
            raise error

        monkeypatch.setattr(JobRun, "make", some)

    return stop


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets the next runs make all parts."""
    make = JobRun.make
    return lambda: monkeypatch.setattr(JobRun, "make", make)


def run_and_fail(spec: Any, error: type[BaseException]) -> None:
    with pytest.raises(error):
        run_job(spec)


def shown(runs: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(run["outcome"], run["exit_code"], run["rows_made"], run["parts_made"]) for run in runs]


def test_a_run_leaves_one_complete_line(job_output: OutputFiles, make_spec: MakeSpec) -> None:
    manifest = run_job(make_spec(output=job_output.directory))
    (run,) = read_runs(job_output)
    assert run.keys() == FIELDS
    assert shown([run]) == [("success", 0, 30, 3)]
    assert (run["command"], run["plan_id"], run["rows_total"]) == ("classify", manifest["plan_id"], 30)
    assert (run["pid"], run["errors"], run["sentence"]) == (os.getpid(), 0, "")
    assert run["tokens"] == manifest["prompt_tokens"] + manifest["completion_tokens"] > 0
    assert manifest["begin"] == run["begin"] <= manifest["end"] <= run["end"]
    assert abs((datetime.now(UTC) - parse_utc(run["end"])).total_seconds()) < 60


def test_stop_failure_kill_and_finish_are_lines_whose_rows_add_up(
    job_output: OutputFiles,
    make_spec: MakeSpec,
    stopping: Callable[[int, BaseException], None],
    healthy: Callable[[], None],
) -> None:
    spec = make_spec(output=job_output.directory, part_rows=5)
    for parts, error in (
        (1, KeyboardInterrupt(signal.SIGTERM)),
        (2, JobError("the cluster\nis gone")),
        (1, Killed()),
        (0, KeyboardInterrupt()),
    ):
        healthy()
        stopping(parts, error)
        run_and_fail(spec, type(error))
    open_line = read_runs(job_output)[2]
    assert (open_line["end"] is None) is False  # the run after the killed one has closed its line
    healthy()
    run_job(spec)
    runs = read_runs(job_output)
    assert shown(runs) == [
        ("interrupted", 143, 5, 1),
        ("failure", 1, 10, 2),
        ("unknown", None, 5, 1),
        ("interrupted", 130, 0, 0),
        ("success", 0, 10, 2),
    ]
    assert sum(run["rows_made"] for run in runs) == runs[-1]["rows_total"] == 30
    assert runs[1]["sentence"] == "the cluster is gone"
    assert sum(run["tokens"] for run in runs) == sum(
        json.loads(job_output.storage.read(job_output.own("manifest.json")))[name]
        for name in ("prompt_tokens", "completion_tokens")
    )
    assert verify(job_output.directory).problems == ()


def test_the_line_of_a_run_is_there_while_it_works(
    job_output: OutputFiles, make_spec: MakeSpec, stopping: Callable[[int, BaseException], None]
) -> None:
    stopping(1, Killed())
    run_and_fail(make_spec(output=job_output.directory), Killed)
    (run,) = read_runs(job_output)
    assert (run["end"], run["exit_code"], run["rows_total"]) == (None, None, 30)


def test_a_killed_run_that_had_all_rows_is_closed_by_one_that_does_nothing(
    job_output: OutputFiles, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tirazh.pipeline.history.recorder import Recorder

    def die(*arguments: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "finish", die)
        run_and_fail(make_spec(output=job_output.directory), Killed)
    run_job(make_spec(output=job_output.directory))
    assert shown(read_runs(job_output)) == [("unknown", None, 30, 3), ("success", 0, 0, 0)]


def test_a_run_that_does_nothing_changes_only_the_history(job_output: OutputFiles, make_spec: MakeSpec) -> None:
    spec = make_spec(output=job_output.directory)
    first = run_job(spec)
    before = {name: job_output.storage.read(job_output.own(name)) for name in ("manifest.json", "report.html")}
    assert run_job(spec) == first
    assert {name: job_output.storage.read(job_output.own(name)) for name in before} == before
    assert shown(read_runs(job_output)) == [("success", 0, 30, 3), ("success", 0, 0, 0)]


def test_a_run_that_does_nothing_waits_for_no_lease(job_output: OutputFiles, make_spec: MakeSpec) -> None:
    spec = make_spec(output=job_output.directory)
    run_job(spec)
    with hold(job_output, lease_s=60):
        run_job(spec)
    assert len(read_runs(job_output)) == 1


def test_a_refused_request_is_a_failure_with_its_exit_code(
    job_output: OutputFiles, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(config: Any) -> None:
        raise RequestError("no node has https://user:secret@host/ a GPU")

    monkeypatch.setattr("tirazh.pipeline.build.refuse_impossible", refuse)
    run_and_fail(make_spec(output=job_output.directory), RequestError)
    (run,) = read_runs(job_output)
    assert shown([run]) == [("failure", 2, 0, 0)]
    assert "secret" not in run["sentence"]


def test_overwriting_keeps_the_history(job_output: OutputFiles, make_spec: MakeSpec) -> None:
    run_job(make_spec(output=job_output.directory))
    run_job(make_spec(output=job_output.directory, abstain_below=0.9, overwrite=True))
    runs = read_runs(job_output)
    assert shown(runs) == [("success", 0, 30, 3)] * 2
    assert runs[0]["plan_id"] != runs[1]["plan_id"]


def test_the_file_is_bounded_and_damaged_lines_are_left_out(
    job_output: OutputFiles, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_file, "MAX_RUNS", 2)
    spec = make_spec(output=job_output.directory)
    for _ in range(3):
        run_job(spec)
    runs = read_runs(job_output)
    assert [run["rows_made"] for run in runs] == [0, 0]
    data = b'{"run_id": 1}\n[1]\nnot json\n\xff\n' + job_output.storage.read(job_output.own("runs.jsonl"))
    job_output.storage.write(job_output.own("runs.jsonl"), data)
    assert read_runs(job_output) == runs


def test_a_history_that_cannot_be_written_fails_no_run(
    make_spec: MakeSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out" / "_tirazh" / "runs.jsonl").mkdir(parents=True)
    assert run_job(make_spec())["rows"] == 30
    assert "the history of the runs could not be written" in caplog.text


def test_the_first_run_of_a_process_begins_with_the_process(make_spec: MakeSpec, tmp_path: Path) -> None:
    start_time.count_from_process_start()
    run_job(make_spec())
    run_job(make_spec())
    first, second = read_runs(OutputFiles.at(str(tmp_path / "out"), make_storage()))
    assert first["seconds_wall"] > second["seconds_wall"]
    ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks
    assert abs(age_s - first["seconds_wall"]) < 60
    assert first["seconds_wall"] > 1


def make_storage() -> Any:
    from tirazh.pipeline.storage.filesystem import Storage

    return Storage()


def test_a_run_that_adds_to_a_complete_output_counts_what_it_added(
    job_output: OutputFiles, make_spec: MakeSpec
) -> None:
    """As `--append` does: the run follows one plan after the other, and the later one has all rows."""
    spec = make_spec(output=job_output.directory)
    manifest = run_job(spec)
    forecast = {"time_s": [1.0, 2.0], "tokens": 9, "source": "a probe"}
    with hold(job_output, lease_s=60) as lease, recording(job_output, lease, kind="classify") as recorder:
        plan = plan_job(spec)
        recorder.found(plan, job_output, survey(plan, job_output, receipt_settings(spec)))
        later = plan_job(make_spec(output=job_output.directory, part_rows=7))
        recorder.found(later, job_output, survey(later, job_output, receipt_settings(spec)))
        recorder.finish(manifest | {"rows": 35, "num_parts": 4, "forecast": forecast})
    run = read_runs(job_output)[-1]
    assert (run["rows_made"], run["parts_made"], run["rows_total"], run["plan_id"]) == (5, 1, 35, later.id)
    assert run["predicted"] == {"time_s": [1.0, 2.0], "tokens": 9}
