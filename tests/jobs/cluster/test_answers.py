"""The answers of a job server, and what the commands make of them."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tests.jobs.cluster.servers import FakeClient, FakeJob, Server
from tirazh.errors import JobError, RequestError
from tirazh.jobs.cluster.job_server import connect, job_info, known_jobs, running_like


def test_a_running_job_is_found_and_finished_ones_determine_the_next_number() -> None:
    done, other = FakeJob("tirazh-a-123456", "SUCCEEDED"), FakeJob(None, "RUNNING")
    client: Any = FakeClient([done, other, FakeJob("tirazh-a-123456-2", "RUNNING")])
    assert running_like(client, "tirazh-a-123456") == ("tirazh-a-123456-2", 3)
    assert running_like(client, "tirazh-b-123456") == (None, 1)


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
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": __file__}, "rejected the token in .*test_answers.py"),
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
