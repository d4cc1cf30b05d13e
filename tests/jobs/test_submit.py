"""What a submitted job sends to the cluster, its name, and the job server's answers."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tirazh.errors import RequestError
from tirazh.jobs.cluster import connect, running_like
from tirazh.jobs.following import exit_code, follow
from tirazh.jobs.job_file import spec_from_file
from tirazh.jobs.submit import job_name, submitted_spec, with_absolute_paths, write_working_dir
from tirazh.pipeline.spec import GenerateSpec


class FakeJob:
    """A job as Ray's client returns it."""

    def __init__(self, submission_id: str | None, status: str) -> None:
        self.submission_id, self.status = submission_id, status
        self.message, self.start_time, self.end_time = "", 1000, 2000
        self.driver_exit_code, self.metadata = 0, {}


class FakeClient:
    """Ray's job client, with a log that grows with each request; None stands for a failed request."""

    def __init__(self, jobs: list[FakeJob], logs: list[str | None] | None = None) -> None:
        self.jobs, self.logs = jobs, logs or []

    def get_address(self) -> str:
        return "http://head:8265"

    def list_jobs(self) -> list[FakeJob]:
        return self.jobs

    def get_job_info(self, job_id: str) -> FakeJob:
        if not self.logs[1:]:
            self.jobs[0].status = "SUCCEEDED"
        return self.jobs[0]

    def get_job_logs(self, job_id: str) -> str:
        text = self.logs.pop(0)
        if text is None:
            raise ConnectionError
        return text


def spec(**values: Any) -> GenerateSpec:
    return GenerateSpec(**({"input": ("s3://in/",), "output": "s3://night/2026-11-23 Новости/"} | values))


def test_the_name_of_a_job_depends_on_its_output_and_its_identity() -> None:
    name = job_name(spec())
    assert name.startswith("tirazh-2026-11-23-")
    assert job_name(spec(replicas="8")) == name
    assert job_name(spec(seed=1)) != name
    assert job_name(spec(output="s3://other/2026-11-23 Новости/")) != name


def test_a_running_job_is_found_and_finished_ones_determine_the_next_number() -> None:
    done, other = FakeJob("tirazh-a-123456", "SUCCEEDED"), FakeJob(None, "RUNNING")
    client: Any = FakeClient([done, other, FakeJob("tirazh-a-123456-2", "RUNNING")])
    assert running_like(client, "tirazh-a-123456") == ("tirazh-a-123456-2", 3)
    assert running_like(client, "tirazh-b-123456") == (None, 1)


def test_the_working_directory_holds_only_the_package_and_the_job_file(tmp_path: Path) -> None:
    job = spec(stop=("\n\n",))
    write_working_dir(replace(job, address="auto"), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"tirazh", "job.yaml"}
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]
    assert (tmp_path / "tirazh/jobs/cli.py").is_file()
    assert not list(tmp_path.rglob("__pycache__"))
    assert spec_from_file(tmp_path / "job.yaml") == job  # and so without the address


def test_the_embedded_weights_are_shipped_only_to_jobs_that_use_them(tmp_path: Path) -> None:
    write_working_dir(spec(model="s3://models/xl"), tmp_path / "other")
    assert (tmp_path / "other/tirazh/model").is_dir()
    assert not (tmp_path / "other/tirazh/model/embedded").exists()
    write_working_dir(spec(), tmp_path / "embedded")
    assert (tmp_path / "embedded/tirazh/model/embedded/model.safetensors").is_file()


def test_local_paths_become_absolute_and_uris_stay() -> None:
    job = with_absolute_paths(spec(input=("news/*.parquet", "s3://in/"), output="out"))
    assert job.input == (f"{os.getcwd()}/news/*.parquet", "s3://in/")
    assert (job.output, job.model) == (f"{os.getcwd()}/out", "embedded")


def test_a_password_in_a_uri_is_refused_and_not_repeated() -> None:
    with pytest.raises(RequestError) as caught:
        spec(endpoint_url="http://user:hunter2@minio:9000")
    assert "http://minio:9000 contains a password" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_job_of_another_program_cannot_be_resumed() -> None:
    with pytest.raises(RequestError, match="was not submitted by tirazh"):
        submitted_spec({"id": "raysubmit_1", "metadata": {}})


def test_following_a_log_prints_only_new_text_and_survives_an_outage_of_the_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tirazh.jobs.following.POLL_S", 0)
    client: Any = FakeClient([FakeJob("a", "RUNNING")], ["one\n", None, "one\ntwo\n", "one\ntwo\nthree\n"])
    printed: list[str] = []
    assert follow(client, "a", printed.append) == 0
    assert "".join(printed) == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("status", "driver", "code"), [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", 1, 1), ("STOPPED", None, 1)]
)
def test_the_exit_code_of_a_followed_job_is_that_of_its_driver(status: str, driver: int | None, code: int) -> None:
    assert exit_code({"status": status, "driver_exit_code": driver}) == code


def test_an_address_without_a_job_server_is_refused() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(RequestError, match=rf"^no Ray job server answers at http://127\.0\.0\.1:{port} \("):
        connect(f"http://user:secret@127.0.0.1:{port}/")


@pytest.mark.parametrize(
    ("address", "says"),
    [(None, "--address is missing"), ("ray://head:10001", "must be the http:// URL"), ("http://", "no Ray job")],
)
def test_an_invalid_address_of_a_job_server_is_refused(
    address: str | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RequestError, match=says):
        connect(address)
