"""What a submitted job sends to the cluster, its name, and the job server's answers."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tirazh.errors import JobError, RequestError
from tirazh.jobs.cluster.following import exit_code, follow
from tirazh.jobs.cluster.job_server import UnknownJobError, connect, job_info, known_jobs, running_like
from tirazh.jobs.cluster.submit import (
    Submission,
    job_name,
    resume,
    submit,
    submitted_spec,
    with_absolute_paths,
    write_working_dir,
)
from tirazh.jobs.job_files.job_file import spec_from_file
from tirazh.pipeline.spec import GenerateSpec


class FakeJob:
    """A job as Ray's client returns it."""

    def __init__(self, submission_id: str | None, status: str) -> None:
        self.submission_id, self.status = submission_id, status
        self.message, self.start_time, self.end_time = "", 1000, 2000
        self.driver_exit_code: int | None = 0
        self.metadata: dict[str, str] = {}


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


class Server:
    """Ray's job client in front of a server that keeps jobs, and refuses an id that was used, as Ray does."""

    def __init__(self) -> None:
        self.jobs: dict[str, FakeJob] = {}
        self.before_submit: Callable[[str], None] = lambda job_id: None

    def get_address(self) -> str:
        return "http://head:8265"

    def list_jobs(self) -> list[FakeJob]:
        return list(self.jobs.values())

    def get_job_info(self, job_id: str) -> FakeJob:
        if job_id not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")
        return self.jobs[job_id]

    def get_job_logs(self, job_id: str) -> str:
        return "a line\n" if self.get_job_info(job_id) else ""

    def submit_job(self, *, submission_id: str, metadata: dict[str, str], **job: Any) -> str:
        self.before_submit(submission_id)
        if submission_id in self.jobs:
            raise RuntimeError(
                f"Request failed with status code 400: ValueError: Job with submission_id {submission_id} "
                "already exists. Please use a different submission_id."
            )
        self.jobs[submission_id] = FakeJob(submission_id, "PENDING")
        self.jobs[submission_id].metadata = metadata
        return submission_id


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr("tirazh.jobs.cluster.submit.connect", lambda address: server)
    monkeypatch.setattr("tirazh.jobs.cluster.following.POLL_S", 0)
    return server


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


def test_submitting_a_running_job_finds_its_run(server: Server) -> None:
    first = submit(spec(), None)
    assert submit(spec(), None) == Submission(job_id=first.job_id, was_running=True)
    assert submit(spec(replicas="2"), None).other_settings == ("replicas",)
    assert list(server.jobs) == [first.job_id]


def test_a_job_that_has_ended_is_submitted_under_the_next_number(server: Server) -> None:
    first = submit(spec(), None)
    server.jobs[first.job_id].status = "FAILED"
    again = submit(spec(), None)
    assert again == Submission(job_id=f"{first.job_id}-2", was_running=False)
    assert resume(first.job_id, None) == Submission(job_id=again.job_id, was_running=True)


def test_two_submitters_at_the_same_time_end_with_one_job(server: Server) -> None:
    """The other submitter lists the jobs at the same time and is a moment faster."""

    def other_is_faster(job_id: str) -> None:
        server.jobs.setdefault(job_id, FakeJob(job_id, "PENDING"))

    server.before_submit = other_is_faster
    found = submit(spec(), None)
    assert found == Submission(job_id=job_name(spec()), was_running=True)
    assert len(server.jobs) == 1


def test_the_job_of_a_faster_submitter_that_has_ended_already_is_resumed(server: Server) -> None:
    def other_is_faster(job_id: str) -> None:
        if not server.jobs:
            server.jobs[job_id] = FakeJob(job_id, "SUCCEEDED")

    server.before_submit = other_is_faster
    assert submit(spec(), None) == Submission(job_id=f"{job_name(spec())}-2", was_running=False)


def test_following_a_job_that_the_server_forgets_ends_with_1_and_says_what_to_do(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tirazh.jobs.cluster.following.DENIED_AFTER_S", 0.05)
    job_id = submit(spec(), None).job_id
    client: Any = server

    def write(text: str) -> None:
        server.jobs.clear()

    with pytest.raises(
        JobError, match=rf"^{job_id} is lost: the cluster has forgotten its jobs .* submit the job file"
    ):
        follow(client, job_id, write)
    with pytest.raises(JobError, match="is lost"):
        follow(client, job_id, write, is_known=True)


def test_following_a_job_that_was_never_known_is_a_wrong_request(server: Server) -> None:
    client: Any = server
    with pytest.raises(UnknownJobError):
        follow(client, "tirazh-a-123456", lambda text: None)


def test_following_gives_up_when_the_head_stays_away(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tirazh.jobs.cluster.following.LOST_AFTER_S", 0.05)
    job_id = submit(spec(), None).job_id
    client: Any = server

    def no_answer(job_id: str) -> FakeJob:
        raise ConnectionError

    monkeypatch.setattr(server, "get_job_info", no_answer)
    with pytest.raises(JobError, match="may still run: `tirazh logs"):
        follow(client, job_id, lambda text: None, is_known=True)


@pytest.mark.parametrize(
    ("known", "job_id", "error", "says"),
    [
        ([], "tirazh-out-123456", JobError, "has forgotten its jobs"),
        ([], "tirazh-out-123456-2", JobError, "has forgotten its jobs"),
        ([], "raysubmit_1", RequestError, r"there is no job raysubmit_1 at http://head:8265$"),
        (["tirazh-other-654321"], "tirazh-out-123456", RequestError, "if the cluster's head was restarted since"),
        (["tirazh-out-123456"], "tirazh-out-123457", RequestError, r"did you mean tirazh-out-123456\?"),
    ],
)
def test_an_unknown_job_is_explained(
    server: Server, known: list[str], job_id: str, error: type[Exception], says: str
) -> None:
    server.jobs = {name: FakeJob(name, "RUNNING") for name in known}
    client: Any = server
    with pytest.raises(error, match=says), known_jobs(client):
        job_info(client, job_id)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, "requires a token: set RAY_AUTH_MODE=token"),
        ({"RAY_AUTH_TOKEN": "x"}, "requires a token: set RAY_AUTH_MODE=token"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x"}, "rejected the token in RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/no/such"}, "RAY_AUTH_TOKEN_PATH /no/such does not exist"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": __file__}, "rejected the token in .*test_submit.py"),
    ],
)
def test_a_refused_client_learns_which_token_was_used(
    server: Server, environment: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.exceptions import AuthenticationError

    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def refuse(job_id: str) -> FakeJob:
        raise AuthenticationError("403")

    monkeypatch.setattr(server, "get_job_info", refuse)
    client: Any = server
    with pytest.raises(RequestError, match=says):
        job_info(client, "tirazh-out-123456")


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
    monkeypatch.setattr("tirazh.jobs.cluster.following.POLL_S", 0)
    client: Any = FakeClient([FakeJob("a", "RUNNING")], ["one\n", None, "one\ntwo\n", "one\ntwo\nthree\n"])
    printed: list[str] = []
    assert follow(client, "a", printed.append) == 0
    assert "".join(printed) == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("status", "driver", "code"), [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", 1, 1), ("STOPPED", None, 1)]
)
def test_the_exit_code_of_a_followed_job_is_that_of_its_driver(status: str, driver: int | None, code: int) -> None:
    assert exit_code({"status": status, "driver_exit_code": driver}) == code


def test_a_job_server_that_does_not_answer_is_no_wrong_request() -> None:
    """So that a scheduler tries again later."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(JobError, match=rf"^no Ray job server answers at http://127\.0\.0\.1:{port} \("):
        connect(f"http://user:secret@127.0.0.1:{port}/")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        (None, "--address is missing"),
        ("ray://head:10001", "must be the http:// URL"),
        ("http://head:port", "no Ray job server can be"),
    ],
)
def test_an_invalid_address_of_a_job_server_is_refused(
    address: str | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RequestError, match=says):
        connect(address)


def test_short_lists_are_sent_within_the_job_and_long_ones_by_their_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "topics.txt").write_text("sport\nscience\n")
    (tmp_path / "cities.csv").write_text("name,people\nА,3\nБ,1\n")
    (tmp_path / "many.csv").write_text("id\n" + "".join(f"{number}\n" for number in range(1_001)))
    vary = {
        "topic": "topics.txt",
        "city": {"values": "cities.csv", "weights": "people"},
        "many": "many.csv#id",
        "far": "s3://bucket/list.txt",
        "mood": {"calm": 3, "angry": 1},
    }
    sent = with_absolute_paths(GenerateSpec(output="out", vary=vary, rows=5, template="{{ topic }}"))
    assert isinstance(sent, GenerateSpec)
    assert sent.vary == vary | {
        "topic": ["sport", "science"],
        "city": {"values": ["А", "Б"], "weights": [3.0, 1.0]},
        "many": f"{tmp_path}/many.csv#id",
    }
