"""Follows a job on a cluster: prints its log until it ends, also across outages of the head node."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tirazh.errors import JobError, RequestError, TirazhError
from tirazh.jobs import notifying
from tirazh.jobs.cluster.job_log import READY, LogPrinter, last_figures, text_of
from tirazh.jobs.cluster.job_server import (
    FINISHED,
    ForgottenJobError,
    UnknownJobError,
    connect,
    forgotten,
    job_info,
    job_logs,
)
from tirazh.jobs.cluster.submit import Submission, SubmittedJob, submit_to
from tirazh.jobs.interrupts import Interrupted
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.secrets import redact

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

POLL_S = 2.0
# `--follow` gives up after this long without an answer; a head node may restart in the meantime.
LOST_AFTER_S = 120.0
# A job that waits for this long is told about: Ray tries for 15 minutes to start its driver.
PENDING_AFTER_S = 60.0
# A job that the server knew is forgotten if the server denies it for this long.
DENIED_AFTER_S = 10.0
# `submit --follow` submits a forgotten job again this often.
MAX_RESUBMISSIONS = 5
# `submit` without `--follow` waits at most this long for the checks of the cluster.
CHECKS_WAIT_S = 45.0


def follow(client: JobSubmissionClient, job_id: str, write: Callable[[str], object], *, is_known: bool = False) -> int:
    """Print a job's log while it runs and return the job's exit code.

    Polls with separate requests, so that a short outage of the head node does not end the command. `is_known`
    says that the server has accepted this job. Raises JobError when the server does not answer for
    LOST_AFTER_S seconds, and ForgottenJobError when it has forgotten the job.
    """
    printer, outage = LogPrinter(write), _Outage(client, job_id, is_known=is_known)
    tells_at = time.monotonic() + PENDING_AFTER_S
    try:
        while True:
            try:
                info, text = job_info(client, job_id), job_logs(client, job_id)
            except (RequestError, JobError) as error:
                outage.bear(error)
            else:
                outage.end()
                # Ray returns the whole log each time; only its new end is printed.
                printer.show(text, is_all=info["status"] in FINISHED)
                if info["status"] in FINISHED:
                    notifying.driver_ended(info, last_figures(text))
                    _refuse_without_driver(info)
                    return exit_code(info)
                if info["status"] == "PENDING" and time.monotonic() >= tells_at:
                    tells_at = float("inf")
                    write(f"{job_id} has been pending for {PENDING_AFTER_S:.0f} s: {_one_line(info['message'])}\n")
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        raise Interrupted(f"{job_id} continues on the cluster; `tirazh stop {job_id}` ends it") from None


def follow_and_resubmit(
    client: JobSubmissionClient,
    job: SubmittedJob,
    submission: Submission,
    *,
    address: str | None,
    write: Callable[[str], object],
    tell: Callable[[str], object],
) -> int:
    """Follow a job that was submitted, and submit it again when the head was restarted; return its exit code.

    `tell` receives a sentence about each new submission, of which there are at most MAX_RESUBMISSIONS. Raises as
    `follow` does.
    """
    for again in range(1, MAX_RESUBMISSIONS + 1):
        try:
            return follow(client, submission.job_id, write, is_known=True)
        except ForgottenJobError:
            tell(
                f"the cluster has forgotten {submission.job_id} (its head was restarted): the job is submitted again "
                f"({again} of at most {MAX_RESUBMISSIONS} times); finished parts are kept"
            )
        try:
            client, submission = _submit_patiently(job, address)
        except KeyboardInterrupt:
            raise Interrupted("the job was not submitted again; the same command does it") from None
    return follow(client, submission.job_id, write, is_known=True)


def wait_for_checks(client: JobSubmissionClient, job_id: str, *, timeout_s: float | None = None) -> int | None:
    """Wait until the job has checked the cluster, and return its exit code if it has refused to run.

    Raises RequestError with the job's sentence then. Returns None if it runs, or after `timeout_s` seconds
    (CHECKS_WAIT_S).
    """
    until = time.monotonic() + (CHECKS_WAIT_S if timeout_s is None else timeout_s)
    while time.monotonic() < until:
        try:
            info, log = job_info(client, job_id), job_logs(client, job_id)
        except (RequestError, JobError):
            return None  # the head is busy, or gone: the job's state says more later
        if info["status"] in FINISHED:
            notifying.driver_ended(info, last_figures(log))
            _refuse_without_driver(info)
            return _refusal(info, log)
        if last_figures(log).get("state") == READY:
            return None
        time.sleep(min(POLL_S, 1.0))
    return None


def exit_code(info: dict[str, Any]) -> int:
    """Return 0 for a job that succeeded, 2 for a wrong request, and 1 for any other end."""
    if info["status"] == "SUCCEEDED":
        return 0
    return info["driver_exit_code"] if info["driver_exit_code"] in (2, 3) else 1


def _refusal(info: dict[str, Any], log: str) -> int | None:
    code = exit_code(info)
    if code != 2:
        return None
    lines = [line for line in text_of(log).splitlines() if line.startswith("tirazh: ")]
    raise RequestError(lines[-1].removeprefix("tirazh: ") if lines else f"{info['id']} has refused its request")


def _refuse_without_driver(info: dict[str, Any]) -> None:
    """Raise JobError for a job whose driver was never started, so that its log is empty."""
    if info["status"] != "FAILED" or info["driver_exit_code"] is not None:
        return
    lines = [line.strip() for line in redact(info["message"]).splitlines() if line.strip()]
    said = [line for line in lines if "error" in line.lower() or "fail" in line.lower()] or lines
    reason = said[-1] if said else "Ray gave no reason"
    hint = "check `runtime_env:`" if "runtime" in info["message"].lower() else "see Ray's dashboard"
    raise JobError(f"the cluster could not start the driver of {info['id']}: {reason[:300].rstrip('.')}; {hint}")


def _one_line(message: str) -> str:
    return " ".join(redact(message).split())[:300] or "Ray gives no reason"


def _submit_patiently(job: SubmittedJob, address: str | None) -> tuple[JobSubmissionClient, Submission]:
    """Submit to a head that has just started; it may not answer yet. Raises JobError after LOST_AFTER_S seconds."""
    until = time.monotonic() + LOST_AFTER_S
    while True:
        try:
            client = connect(address)
            return client, submit_to(client, job)
        except JobError:
            if time.monotonic() > until:
                raise
            time.sleep(POLL_S)


class _Outage:
    """Decides how long failed requests about one job are tried again."""

    def __init__(self, client: JobSubmissionClient, job_id: str, *, is_known: bool) -> None:
        self._client, self._job_id, self._is_known = client, job_id, is_known
        self._last_answer = time.monotonic()
        self._denied_since: float | None = None

    def end(self) -> None:
        """Note an answer of the server about the job."""
        self._is_known, self._denied_since, self._last_answer = True, None, time.monotonic()

    def bear(self, error: TirazhError) -> None:
        """Return if the request is to be tried again.

        Raises `error` for a job that the server never knew and for a wrong token, else JobError.
        """
        if not self._is_known and isinstance(error, RequestError):
            raise error
        now, at = time.monotonic(), show_uri(self._client.get_address())
        if isinstance(error, UnknownJobError):
            self._denied_since = now if self._denied_since is None else self._denied_since
            if now - self._denied_since >= DENIED_AFTER_S:
                raise ForgottenJobError(f"{self._job_id} is lost: {forgotten(self._job_id, at)}") from None
        elif now - self._last_answer >= LOST_AFTER_S:
            raise JobError(
                f"no Ray job server has answered at {at} for {LOST_AFTER_S:.0f} s; "
                f"{self._job_id} may still run: `tirazh logs {self._job_id} --follow` shows it when the head is back"
            ) from None
