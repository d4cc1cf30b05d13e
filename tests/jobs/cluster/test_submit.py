"""Submitting a job: its name, its runs on the cluster, and what a machine remembers of it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.jobs.cluster.servers import FakeJob, Server, job_to_submit, spec, submitted
from tirazh.errors import RequestError
from tirazh.jobs.cluster.job_server import NoAnswerError
from tirazh.jobs.cluster.submit import (
    TRAINING_STOP_WAIT_S,
    Submission,
    job_name,
    job_of_spec,
    job_to_resume,
    submit_to,
    submitted_spec,
)
from tirazh.pipeline.finetune.spec import FinetuneSpec


def test_the_name_of_a_job_depends_on_its_output_and_its_identity() -> None:
    name = job_name(spec())
    assert name.startswith("tirazh-2026-11-23-")
    assert job_name(spec(replicas="8")) == name
    assert job_name(spec(seed=1)) != name
    assert job_name(spec(output="s3://other/2026-11-23 Новости/")) != name


def test_submitting_a_running_job_finds_its_run(server: Server) -> None:
    first = submitted()
    assert submitted() == Submission(job_id=first.job_id, was_running=True)
    assert submitted(spec(replicas="2")).other_settings == ("replicas",)
    assert list(server.jobs) == [first.job_id]


def test_a_job_that_has_ended_is_submitted_under_the_next_number(server: Server) -> None:
    first = submitted()
    server.jobs[first.job_id].status = "FAILED"
    again = submitted()
    assert again == Submission(job_id=f"{first.job_id}-2", was_running=False)
    assert submit_to(server, job_to_resume(server, first.job_id)) == Submission(job_id=again.job_id, was_running=True)


def test_two_submitters_at_the_same_time_end_with_one_job(server: Server) -> None:
    """The other submitter lists the jobs at the same time and is a moment faster."""

    def other_is_faster(job_id: str) -> None:
        server.jobs.setdefault(job_id, FakeJob(job_id, "PENDING"))

    server.before_submit = other_is_faster
    found = submitted()
    assert found == Submission(job_id=job_name(spec()), was_running=True)
    assert len(server.jobs) == 1


def test_the_job_of_a_faster_submitter_that_has_ended_already_is_resumed(server: Server) -> None:
    def other_is_faster(job_id: str) -> None:
        if not server.jobs:
            server.jobs[job_id] = FakeJob(job_id, "SUCCEEDED")

    server.before_submit = other_is_faster
    assert submitted() == Submission(job_id=f"{job_name(spec())}-2", was_running=False)


def test_a_job_of_another_program_cannot_be_resumed() -> None:
    with pytest.raises(RequestError, match="was not submitted by tirazh"):
        submitted_spec({"id": "raysubmit_1", "metadata": {}})


def test_what_the_job_needs_and_the_users_runtime_env_are_sent_but_no_value_of_a_variable_is_kept(
    server: Server,
) -> None:
    job_id = submitted(pip=["sentencepiece"], env_vars={"HF_TOKEN": "hunter2"}).job_id
    sent = server.jobs[job_id].runtime_env
    assert sent["pip"] == ["sentencepiece"]
    assert sent["env_vars"]["HF_TOKEN"] == "hunter2"
    assert server.entrypoint == f"python -m tirazh.jobs.cluster.start {job_id}"
    assert "hunter2" not in json.dumps(server.jobs[job_id].metadata)
    state = f"{os.environ['XDG_STATE_HOME']}/tirazh/jobs/{job_id}.json"
    with open(state, encoding="utf-8") as file:
        assert json.load(file)["runtime_env"] == {"pip": ["sentencepiece"], "env_vars": {"HF_TOKEN": None}}
    assert os.stat(state).st_mode & 0o077 == 0


def test_a_resumed_job_has_the_users_runtime_env(server: Server) -> None:
    given = {"pip": ["sentencepiece"], "env_vars": {"HF_TOKEN": "hunter2"}}
    job: Any = job_to_resume(server, submitted(**given).job_id)
    assert job.runtime_env == given


def test_a_job_in_an_image_has_no_working_directory_but_its_settings_as_variables(server: Server) -> None:
    sent = server.jobs[submitted(image_uri="registry/tirazh:1").job_id].runtime_env
    assert "working_dir" not in sent
    assert json.loads(sent["env_vars"]["TIRAZH_JOB"])["kind"] == "generate"
    assert "pyarrow" in json.loads(sent["env_vars"]["TIRAZH_NEEDS"])["requirements"]


def test_a_job_that_the_cluster_has_forgotten_is_resumed_from_the_record_of_this_machine(server: Server) -> None:
    first = submitted(spec(seed=7))
    server.jobs.clear()
    job = job_to_resume(server, first.job_id)
    assert (job.spec.output, job.spec.seed) == (job_to_submit().spec.output, 7)
    assert submit_to(server, job) == Submission(job_id=first.job_id, was_running=False)


def test_a_job_of_another_address_is_not_taken_from_the_record(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = submitted(spec(seed=8)).job_id
    server.jobs = {"tirazh-other-654321": FakeJob("tirazh-other-654321", "RUNNING")}
    monkeypatch.setattr(server, "get_address", lambda: "http://other:8265")
    with pytest.raises(RequestError, match="there is no job"):
        job_to_resume(server, job_id)


def test_a_forgotten_job_with_secret_variables_needs_its_job_file(server: Server) -> None:
    job_id = submitted(spec(seed=9), env_vars={"HF_TOKEN": "hunter2"}).job_id
    server.jobs.clear()
    with pytest.raises(RequestError, match=r"kept nowhere else \(HF_TOKEN\): submit the job file again") as caught:
        job_to_resume(server, job_id)
    assert "hunter2" not in str(caught.value)


def test_a_section_notify_without_addresses_travels_as_a_variable(server: Server) -> None:
    job = replace(job_to_submit(), notify={"url": "env:HOOK"})
    job_id = submit_to(server, job).job_id
    assert json.loads(server.jobs[job_id].runtime_env["env_vars"]["TIRAZH_NOTIFY"]) == job.notify
    resumed = job_to_resume(server, job_id)
    assert resumed.notify == job.notify
    assert "env_vars" not in resumed.runtime_env


def test_a_section_notify_with_an_address_travels_in_the_working_directory(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray shows metadata, entrypoint and runtime_env of a job to everyone who can list jobs."""
    sent: list[str] = []
    submit_job = server.submit_job

    def keep_file(**job: Any) -> str:
        sent.append((Path(job["runtime_env"]["working_dir"]) / "notify.json").read_text(encoding="utf-8"))
        return submit_job(**job)

    monkeypatch.setattr(server, "submit_job", keep_file)
    file = tmp_path / "job.yaml"
    file.write_text("kind: generate\ninput: s3://in/\noutput: s3://out/\nnotify: {url: 'https://hooks/hunter2'}\n")
    job = replace(job_to_submit(), notify={"url": "https://hooks/hunter2"}, job_file=str(file))
    job_id = submit_to(server, job).job_id
    assert json.loads(sent[0]) == job.notify
    shown = server.jobs[job_id]
    assert "hunter2" not in json.dumps([shown.metadata, shown.runtime_env]) + repr(job) + server.entrypoint
    assert job_to_resume(server, job_id).notify == job.notify


def test_an_address_cannot_travel_into_an_image(server: Server) -> None:
    job = replace(job_to_submit(image_uri="registry/tirazh:1"), notify={"url": "https://hooks/hunter2"})
    with pytest.raises(RequestError, match="give url: env:NAME") as caught:
        submit_to(server, job)
    assert "hunter2" not in str(caught.value)


def test_a_busy_head_that_misses_a_request_is_asked_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    missed: list[str] = []

    def misses_one(job_id: str) -> None:
        if not missed:
            missed.append(job_id)
            raise requests.exceptions.ReadTimeout

    monkeypatch.setattr("tirazh.jobs.cluster.submit.time.sleep", lambda seconds: None)
    server.before_submit = misses_one
    assert submitted(spec(seed=11)).job_id == missed[0]
    monkeypatch.setattr("tirazh.jobs.cluster.submit._BUSY_S", 0)
    missed.clear()
    with pytest.raises(NoAnswerError, match="no Ray job server answers"):
        submitted(spec(seed=12))


def test_a_training_is_submitted_resumed_as_it_was_and_has_time_to_save_a_checkpoint(server: Server) -> None:
    labels = {"a": "б", "c": "г"}
    training = FinetuneSpec(input=("/in",), output="/shared/model", labels=labels, completion_column="x", max_steps=7)
    job = job_of_spec(training)
    first = submit_to(server, job)
    found = server.jobs[first.job_id]
    assert found.runtime_env["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == str(TRAINING_STOP_WAIT_S)
    assert job_to_resume(server, first.job_id).spec == job.spec


def test_a_training_in_an_object_store_is_submitted_with_absolute_paths_for_the_rest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    given = FinetuneSpec(input=("s3://a/in",), output="s3://b/out", work_dir="work", from_checkpoint="old@5")
    job = job_of_spec(given).spec
    assert isinstance(job, FinetuneSpec)
    assert (job.output, job.work_dir) == ("s3://b/out", f"{tmp_path}/work")
    assert job.from_checkpoint == f"{tmp_path}/old@5"
