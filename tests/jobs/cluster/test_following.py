"""Following a job: its log, outages and restarts of the head, and the exit code."""

from __future__ import annotations

from typing import Any

import pytest

from tests.jobs.cluster.servers import FakeClient, FakeJob, Server, job_to_submit, submitted
from tirazh.errors import JobError, RequestError
from tirazh.jobs.cluster.following import exit_code, follow, follow_and_resubmit, wait_for_checks
from tirazh.jobs.cluster.job_server import ForgottenJobError, UnknownJobError


def test_following_a_job_that_the_server_forgets_ends_with_1_and_says_what_to_do(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tirazh.jobs.cluster.following.DENIED_AFTER_S", 0.05)
    job_id = submitted().job_id
    client: Any = server

    def write(text: str) -> None:
        server.jobs.clear()

    with pytest.raises(
        ForgottenJobError, match=rf"^{job_id} is lost: the cluster has forgotten its jobs .* `tirazh resume {job_id}`"
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
    job_id = submitted().job_id
    client: Any = server

    def no_answer(job_id: str) -> FakeJob:
        raise ConnectionError

    monkeypatch.setattr(server, "get_job_info", no_answer)
    with pytest.raises(JobError, match="may still run: `tirazh logs"):
        follow(client, job_id, lambda text: None, is_known=True)


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


@pytest.fixture
def forgets_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tirazh.jobs.cluster.following.DENIED_AFTER_S", 0)


@pytest.mark.usefixtures("forgets_at_once")
def test_a_forgotten_job_is_submitted_again_with_a_note(server: Server) -> None:
    told: list[str] = []
    submission = submitted()
    client: Any = server

    def restart_once(text: str) -> None:
        if not told:
            server.jobs.clear()
        else:
            server.jobs[submission.job_id].status = "SUCCEEDED"

    code = follow_and_resubmit(client, job_to_submit(), submission, address=None, write=restart_once, tell=told.append)
    assert code == 0
    assert len(told) == 1
    assert "(its head was restarted): the job is submitted again (1 of at most 5 times)" in told[0]


@pytest.mark.usefixtures("forgets_at_once")
def test_a_head_that_forgets_again_and_again_ends_the_command_with_1(server: Server) -> None:
    told: list[str] = []
    client: Any = server
    with pytest.raises(ForgottenJobError):
        follow_and_resubmit(
            client, job_to_submit(), submitted(), address=None, write=lambda text: server.jobs.clear(), tell=told.append
        )
    assert len(told) == 5


def test_a_new_run_under_the_same_id_is_printed_from_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tirazh.jobs.cluster.following.POLL_S", 0)
    client: Any = FakeClient([FakeJob("a", "RUNNING")], ["one\ntwo\n", "new\n", "new\nend\n"])
    printed: list[str] = []
    assert follow(client, "a", printed.append) == 0
    assert "".join(printed) == "one\ntwo\nnew\nend\n"


def test_a_driver_that_never_started_is_explained(server: Server) -> None:
    job_id = submitted().job_id
    job = server.jobs[job_id]
    job.status, job.driver_exit_code = "FAILED", None
    job.message = (
        "runtime_env setup failed: Failed to set up runtime environment.\nERROR: No matching distribution for x"
    )
    client: Any = server
    with pytest.raises(
        JobError, match=r"could not start the driver of .*: ERROR: No matching distribution for x; check"
    ):
        follow(client, job_id, lambda text: None)


def test_submit_without_follow_waits_for_the_checks_and_repeats_a_refusal(server: Server) -> None:
    job_id = submitted().job_id
    client: Any = server
    assert wait_for_checks(client, job_id, timeout_s=0) is None
    server.log = 'tirazh-progress {"state": "ready"}\n'
    assert wait_for_checks(client, job_id, timeout_s=10) is None
    server.jobs[job_id].status, server.jobs[job_id].driver_exit_code = "FAILED", 2
    server.log = "tirazh: machine vm has no pyarrow\n"
    with pytest.raises(RequestError, match=r"^machine vm has no pyarrow$"):
        wait_for_checks(client, job_id, timeout_s=10)
    server.jobs[job_id].driver_exit_code = 1
    assert wait_for_checks(client, job_id, timeout_s=10) is None


def test_a_job_that_stays_pending_is_told_about_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tirazh.jobs.cluster.following.PENDING_AFTER_S", 0)
    job_id = submitted().job_id
    server.log, server.jobs[job_id].message = "", "Job has not started yet. It may be waiting\nfor resources."
    written: list[str] = []

    def write(text: str) -> None:
        written.append(text)
        server.jobs[job_id].status = "SUCCEEDED"

    client: Any = server
    assert follow(client, job_id, write) == 0
    assert written == [
        f"{job_id} has been pending for 0 s: Job has not started yet. It may be waiting for resources.\n"
    ]
