"""The state of an output is read from its files alone, and says when somebody has to look."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.output.conftest import MakeSpec
from tirazh.errors import JobError, RequestError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.history.ages import age_text, parse_duration
from tirazh.pipeline.history.start_time import utc_text
from tirazh.pipeline.history.state import output_status
from tirazh.pipeline.job_run import JobRun
from tirazh.pipeline.output.leases.lease import hold
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.runs_file import read_runs, runs_text
from tirazh.pipeline.storage.filesystem import Storage

pytestmark = pytest.mark.usefixtures("no_ray")


def set_age(output: OutputFiles, hours: float) -> None:
    """Let all runs of an output have ended so many hours ago."""
    end = utc_text(datetime.now(UTC) - timedelta(hours=hours))
    runs = [{**run, "begin": end, "end": end} for run in read_runs(output)]
    output.storage.write(output.own("runs.jsonl"), runs_text(runs))


@pytest.fixture
def fail_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Let runs make one part and end by an error."""
    make = JobRun.make

    def fail(error: BaseException) -> None:
        def one(self: JobRun, parts: list[Any]) -> dict[str, Any]:
            make(self, parts[:1])
            raise error

        monkeypatch.setattr(JobRun, "make", one)

    return fail


def test_a_complete_output_is_well_until_it_is_too_old(job_output: OutputFiles, make_spec: MakeSpec) -> None:
    run_job(make_spec(output=job_output.directory))
    found = output_status(job_output, max_age_s=3600)
    assert (found.state, found.rows_safe, found.rows_total, found.problem) == ("complete", 30, 30, "")
    assert found.age_s is not None
    assert found.age_s < 600
    set_age(job_output, 27)
    assert output_status(job_output).problem == ""
    old = output_status(job_output, max_age_s=26 * 3600)
    assert old.problem == "the last success is 27.0 h old, and --max-age is 26.0 h"
    assert json.loads(json.dumps(old.to_dict()))["state"] == "complete"


def test_a_failed_output_says_why(
    job_output: OutputFiles, make_spec: MakeSpec, fail_after: Callable[[BaseException], None]
) -> None:
    fail_after(JobError("the cluster is gone"))
    with pytest.raises(JobError):
        run_job(make_spec(output=job_output.directory))
    found = output_status(job_output)
    assert (found.state, found.rows_safe, found.rows_total) == ("failed", 10, 30)
    assert found.problem == found.failure == "the cluster is gone"


def test_a_stopped_output_is_unfinished(
    job_output: OutputFiles, make_spec: MakeSpec, fail_after: Callable[[BaseException], None]
) -> None:
    fail_after(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run_job(make_spec(output=job_output.directory))
    found = output_status(job_output)
    assert (found.state, found.rows_safe) == ("unfinished", 10)
    assert "no run writes to it" in found.problem


def test_an_output_that_is_written_is_well(job_output: OutputFiles, make_spec: MakeSpec) -> None:
    with hold(job_output, lease_s=60):
        found = output_status(job_output)
        assert (found.state, found.problem) == ("running", "")
        assert found.owner is not None
        assert "no run has ended well yet" in output_status(job_output, max_age_s=60).problem


def test_a_missing_output_is_a_problem(job_output: OutputFiles) -> None:
    found = output_status(job_output, max_age_s=60)
    assert found.state == "missing"
    assert "no run has begun there" in found.problem


def test_an_output_of_an_earlier_version_has_the_age_of_its_success_file(make_spec: MakeSpec, tmp_path: Path) -> None:
    run_job(make_spec())
    own = tmp_path / "out" / "_tirazh"
    (own / "runs.jsonl").unlink()
    manifest = (own / "manifest.json").read_bytes()
    (own / "manifest.json").write_bytes(manifest.replace(b'"end"', b'"eNd"'))
    found = output_status(OutputFiles.at(str(tmp_path / "out"), make_storage()), max_age_s=600)
    assert (found.state, found.problem) == ("complete", "")


@pytest.mark.parametrize("last", ["config.json", "adapter/adapter_config.json"])
def test_the_output_of_a_training_is_complete_once_its_model_or_its_adapter_is_there(last: str, tmp_path: Path) -> None:
    """It has no `_SUCCESS`, and its manifest is another one; its run is in the history."""
    output = OutputFiles.at(str(tmp_path), Storage())
    output.storage.write(output.own("finetune.json"), b"{}")
    texts = dict.fromkeys(("run_id", "begin", "host", "user", "command", "outcome", "sentence"), "")
    run = texts | {"begin": "2026-11-30T20:00:00Z", "end": "2026-11-30T22:00:00Z", "outcome": "success"}
    output.storage.write(output.own("runs.jsonl"), runs_text([run]))
    assert output_status(output).state == "unfinished"
    output.storage.write(output.own("manifest.json"), json.dumps({"kind": "finetune", "rows": 200}).encode())
    assert output_status(output).state == "unfinished", "a run that replaces a model is in the middle of it"
    output.storage.write(output.part(last), b"{}")
    found = output_status(output, max_age_s=1e9)
    assert (found.state, found.rows_safe, found.rows_total, found.problem) == ("complete", 200, 200, "")
    assert found.last_success is not None
    assert found.last_success.startswith("2026-11-30T22:00:00")


def test_durations() -> None:
    assert [parse_duration(text, flag="--keep") for text in ("45s", "90m", "26h", "30d", "4w", "1.5h")] == [
        *(45, 5_400, 93_600, 2_592_000, 2_419_200, 5_400)
    ]
    with pytest.raises(RequestError, match=r"^--keep must be a duration such as 26h, 30d or 4w, not '30'$"):
        parse_duration("30", flag="--keep")
    assert [age_text(value) for value in (5, 600, 93_600, 864_000)] == ["5 s", "10 min", "26.0 h", "10.0 d"]


def make_storage() -> Any:
    from tirazh.pipeline.storage.filesystem import Storage

    return Storage()
