"""`--overwrite` replaces another job's output only when the new one is complete, and says what it does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pipeline.output.conftest import MakeSpec
from tirazh.errors import JobError, OutputError, RequestError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.job_run import JobRun
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import read_plan
from tirazh.pipeline.output.runs_file import RUNS
from tirazh.pipeline.output.seal import read_sealed_json
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.storage.filesystem import Storage

pytestmark = pytest.mark.usefixtures("no_ray")


@pytest.fixture
def finished(make_spec: MakeSpec, job_output: OutputFiles) -> OutputFiles:
    run_job(make_spec(output=job_output.directory))
    return job_output


def visible(output: OutputFiles) -> dict[str, bytes]:
    """What a reader of the output sees, and what tirazh knows about it, besides the history of its runs."""
    storage = output.storage
    files = {name: storage.read(output.part(name)) for name in storage.names(output.directory)}
    return files | {name: storage.read(output.own(name)) for name in storage.names(output.own()) if name != RUNS}


def other(make_spec: MakeSpec, output: OutputFiles, **changes: Any) -> Any:
    return make_spec(**{"output": output.directory, "abstain_below": 0.9, "overwrite": True, **changes})


def test_overwrite_replaces_the_output_of_another_job(finished: OutputFiles, make_spec: MakeSpec) -> None:
    before = set(finished.parts())
    manifest = run_job(other(make_spec, finished))
    assert manifest["output"] == finished.directory
    assert manifest["abstained"] == 30
    assert not before & set(finished.parts())
    assert verify(finished.directory).problems == ()
    assert finished.storage.names(finished.staged.directory) == {}
    assert read_sealed_json(finished.storage.read(finished.own("manifest.json"))) == manifest


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("ray_session", RequestError("no Ray cluster answers")),
        ("resolve_device", RequestError("--device cuda: Ray sees 0 GPUs here")),
        ("refuse_impossible", RequestError("a replica fits on no node")),
    ],
    ids=["address", "device", "resources"],
)
def test_an_overwrite_that_cannot_start_leaves_the_output_as_it_is(
    finished: OutputFiles, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    def failing(*arguments: Any, **options: Any) -> None:
        raise error

    before = visible(finished)
    monkeypatch.setattr(f"tirazh.pipeline.build.{step}", failing)
    with pytest.raises(RequestError):
        run_job(other(make_spec, finished))
    assert visible(finished) == before
    assert run_job(make_spec(output=finished.directory))["rows"] == 30


def test_an_overwrite_that_fails_leaves_the_old_output_and_is_resumed(
    finished: OutputFiles, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = visible(finished)
    make = JobRun.make

    def failing(self: JobRun, parts: list[Any]) -> dict[str, Any]:
        make(self, parts[:2])
        raise JobError("the cluster is gone")

    with monkeypatch.context() as patch:
        patch.setattr(JobRun, "make", failing)
        with pytest.raises(JobError):
            run_job(other(make_spec, finished))
    assert visible(finished) == before
    assert len(finished.staged.parts()) == 2
    assert "the cluster is gone" in finished.storage.read(finished.staged.own("report.html")).decode()
    with pytest.raises(OutputError, match="another job: --abstain-below differs"):
        run_job(other(make_spec, finished, overwrite=False))
    manifest = run_job(other(make_spec, finished))
    assert manifest["resumed_parts"] == 2
    assert verify(finished.directory).problems == ()


def test_an_overwrite_by_a_third_job_discards_the_staged_parts_of_the_second(
    finished: OutputFiles, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: JobRun, parts: list[Any]) -> dict[str, Any]:
        raise JobError("the cluster is gone")

    with monkeypatch.context() as patch:
        patch.setattr(JobRun, "make", failing)
        with pytest.raises(JobError):
            run_job(other(make_spec, finished))
    manifest = run_job(other(make_spec, finished, abstain_below=0.8))
    assert manifest["spec"]["abstain_below"] == 0.8
    assert verify(finished.directory).problems == ()


@pytest.mark.parametrize("damage", [b"", b'{"format": 1}', b'{"format": 99}'], ids=["damaged", "earlier", "later"])
def test_an_output_whose_plan_cannot_be_read_may_be_replaced(
    finished: OutputFiles, make_spec: MakeSpec, damage: bytes
) -> None:
    finished.storage.write(finished.own("plan.json"), damage)
    with pytest.raises(OutputError, match="give --overwrite"):
        run_job(make_spec(output=finished.directory))
    run_job(make_spec(output=finished.directory, overwrite=True))
    assert verify(finished.directory).problems == ()


def test_parts_without_a_plan_are_replaced_only_with_overwrite(finished: OutputFiles, make_spec: MakeSpec) -> None:
    finished.storage.remove(finished.own("plan.json"))
    with pytest.raises(OutputError, match="its plan is missing; give --overwrite"):
        run_job(make_spec(output=finished.directory))
    run_job(make_spec(output=finished.directory, overwrite=True))
    assert verify(finished.directory).problems == ()


def test_overwrite_of_the_same_job_is_said_to_have_nothing_to_replace(
    finished: OutputFiles, make_spec: MakeSpec
) -> None:
    lines: list[str] = []
    run_job(make_spec(output=finished.directory, overwrite=True), tell=lines.append)
    finished.storage.remove(finished.part(min(finished.parts())))
    run_job(make_spec(output=finished.directory, overwrite=True), tell=lines.append)
    start = f"--overwrite has nothing to replace: {finished.directory} is the output of this same job, and "
    assert lines == [f"{start}it is complete", f"{start}its remaining parts (1 of 3) are made"]


def test_other_part_rows_on_a_stored_output_are_said_to_have_no_effect(
    finished: OutputFiles, make_spec: MakeSpec
) -> None:
    lines: list[str] = []
    for part_rows in (10, 7, None):
        run_job(make_spec(output=finished.directory, part_rows=part_rows), tell=lines.append)
    (line,) = lines
    assert line.startswith("--part-rows 7 has no effect: ")
    assert "parts of 10 rows" in line


def test_a_plan_is_never_replaced(finished: OutputFiles, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = read_plan(finished)
    write = Storage.write

    def watched(self: Storage, uri: str, data: bytes) -> None:
        assert not uri.endswith("plan.json")
        write(self, uri, data)

    monkeypatch.setattr(Storage, "write", watched)
    finished.storage.remove(finished.part(min(finished.parts())))
    run_job(make_spec(output=finished.directory))
    assert read_plan(finished) == plan
