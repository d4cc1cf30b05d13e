"""The job server of a Ray cluster: connect to it, query and stop jobs."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tirazh.errors import JobError, RequestError
from tirazh.jobs.cluster.records import find_record
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.secrets import redact

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

CONNECT_TIMEOUT_S = 10.0
FINISHED = ("SUCCEEDED", "FAILED", "STOPPED")
# These set their own level to INFO when they are imported.
_VERBOSE_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",  # it warns of the size of the embedded model
)
# The form of the ids that `submit` gives.
_OUR_ID = re.compile(r"tirazh-.+-[0-9a-f]{6}(?:-\d+)?")
# How long Ray waits between SIGTERM and SIGKILL when it stops a job, in seconds.
STOP_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


class NoAnswerError(JobError):
    """The job server does not answer: its head is busy, restarting or gone."""


class ForgottenJobError(JobError):
    """The job server has forgotten a job that it knew, as its head was restarted."""


class UnknownJobError(RequestError):
    """The job server does not know a job; `known_jobs` explains why."""

    def __init__(self, message: str, job_id: str = "") -> None:
        super().__init__(message)
        self.job_id = job_id


def connect(address: str | None) -> JobSubmissionClient:
    """Connect to the job server at a URL such as `http://head:8265`.

    Ray reads the token from the environment (RAY_AUTH_MODE, RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH).
    Raises JobError within seconds when the server does not answer, which a later try may find running, and
    RequestError for a wrong address or token.
    """
    url = _server_url(address)
    _check_reachable(url)
    from ray.job_submission import JobSubmissionClient

    for name in _VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    with _answers(url), _without_variables():
        return JobSubmissionClient(url)


def job_info(client: JobSubmissionClient, job_id: str) -> dict[str, Any]:
    """Return what the server knows about a job; `start_time` and `end_time` are in seconds."""
    with _answers(show_uri(client.get_address()), job_id=job_id):
        info = client.get_job_info(job_id)
    return _facts(job_id, info)


def _facts(job_id: str, info: Any) -> dict[str, Any]:
    return {
        "id": job_id,
        "status": str(getattr(info.status, "value", info.status)),
        "message": info.message or "",
        "start_time": (info.start_time or 0) / 1000,
        "end_time": (info.end_time or 0) / 1000,
        "driver_exit_code": info.driver_exit_code,
        "metadata": info.metadata or {},
        "runtime_env": info.runtime_env or {},
    }


def all_jobs(client: JobSubmissionClient) -> list[dict[str, Any]]:
    """Return what the server knows about all jobs that were submitted to it, as `job_info` does."""
    with _answers(show_uri(client.get_address())):
        jobs = client.list_jobs()
    return [_facts(job.submission_id, job) for job in jobs if job.submission_id]


def job_logs(client: JobSubmissionClient, job_id: str) -> str:
    """Return everything that the job has printed so far."""
    with _answers(show_uri(client.get_address()), job_id=job_id):
        return str(client.get_job_logs(job_id))


def forgotten(job_id: str, address: str) -> str:
    """Return the end of a sentence about a job that its server has forgotten: what to do."""
    record = find_record(job_id, address)
    again = f"`tirazh resume {job_id}` submits it" if record is not None else "submit the job file"
    return f"the cluster has forgotten its jobs (its head was restarted): {again} again; finished parts are kept"


@contextmanager
def known_jobs(client: JobSubmissionClient) -> Iterator[None]:
    """Inside the block, explain why the server does not know a job.

    Raises ForgottenJobError if its head was restarted since this one was submitted: the server has no jobs at all,
    or this machine has submitted it. Raises RequestError otherwise.
    """
    try:
        yield
    except UnknownJobError as error:
        job_id, at = error.job_id, show_uri(client.get_address())
        with _answers(at):
            known = [job.submission_id for job in client.list_jobs() if job.submission_id]
        if not known and _OUR_ID.fullmatch(job_id):
            raise ForgottenJobError(f"{at} knows no job: {forgotten(job_id, at)}") from None
        close = get_close_matches(job_id, known, n=1, cutoff=0.9)  # other ids of tirazh are similar
        hint = f"; did you mean {close[0]}?" if close else ""
        if not hint and find_record(job_id, at) is not None:
            raise ForgottenJobError(f"{at} does not know {job_id}: {forgotten(job_id, at)}") from None
        if not hint and _OUR_ID.fullmatch(job_id):
            hint = "; if the cluster's head was restarted since it was submitted, submit the job file again"
        raise RequestError(f"there is no job {job_id} at {at}{hint}") from None


def stop_job(client: JobSubmissionClient, job_id: str, *, timeout_s: float | None = None) -> dict[str, Any]:
    """Stop a job and wait until it has ended. Returns its info; a finished job is left as it is.

    Waits for `timeout_s` seconds, by default a minute longer than Ray gives the job to end.
    """
    info = job_info(client, job_id)
    if info["status"] in FINISHED:
        return info
    with _answers(show_uri(client.get_address()), job_id=job_id):
        client.stop_job(job_id)
    timeout_s = stop_wait_s(info) + 60.0 if timeout_s is None else timeout_s
    until = time.monotonic() + timeout_s
    while info["status"] not in FINISHED:
        if time.monotonic() > until:
            raise JobError(f"job {job_id} is still {info['status']} {timeout_s:.0f} s after it was asked to stop")
        time.sleep(0.5)
        info = job_info(client, job_id)
    return info


def stop_wait_s(info: Mapping[str, Any]) -> float:
    """Return the seconds that Ray gives a job to end in order when it is stopped."""
    try:
        return float(info["runtime_env"]["env_vars"][STOP_VARIABLE])
    except (KeyError, TypeError, ValueError):
        return 60.0


def running_like(client: JobSubmissionClient, name: str) -> tuple[str | None, int]:
    """Find the running one of the jobs `name`, `name-2`, …, if any, and the next free number."""
    with _answers(show_uri(client.get_address())):
        jobs = client.list_jobs()
    running, highest = None, 0
    for job in jobs:
        # Ray refuses an id that was used before, so a repeated job has a number after its name.
        match = re.fullmatch(re.escape(name) + r"(?:-(\d+))?", job.submission_id or "")
        if match:
            highest = max(highest, int(match[1] or 1))
            if str(getattr(job.status, "value", job.status)) not in FINISHED:
                running = job.submission_id
    return running, highest + 1


def _server_url(address: str | None) -> str:
    named = address or next((os.environ[name] for name in ADDRESS_VARIABLES if os.environ.get(name)), None)
    if not named:
        raise RequestError("--address is missing: the URL of the cluster's job server, such as http://head:8265")
    url = named if "://" in named else f"http://{named}"
    if urlsplit(url).scheme not in ("http", "https"):
        raise RequestError(
            f"--address must be the http:// URL of the cluster's job server (port 8265 by default), not {show_uri(url)}"
        )
    return url.rstrip("/")


def _check_reachable(url: str) -> None:
    """Raise JobError when no TCP connection is possible; Ray's own client would wait for minutes."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=CONNECT_TIMEOUT_S).close()
    except ValueError as error:
        raise RequestError(f"no Ray job server can be at {show_uri(url)}: {error}") from None
    except OSError as error:
        raise JobError(f"no Ray job server answers at {show_uri(url)} ({error.strerror or error})") from None


@contextmanager
def _without_variables() -> Iterator[None]:
    """Hide RAY_ADDRESS and its like, which Ray's client prefers over its own argument."""
    saved = {name: os.environ.pop(name) for name in ADDRESS_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)


@contextmanager
def _answers(url: str, *, job_id: str | None = None) -> Iterator[None]:
    """Turn the exceptions of Ray's client into RequestError or JobError with one sentence."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise RequestError(f"the cluster at {show_uri(url)} {_token_problem()}") from None
    except (ConnectionError, requests.exceptions.RequestException):
        raise NoAnswerError(f"no Ray job server answers at {show_uri(url)}") from None
    except RuntimeError as error:
        if job_id and "status code 404" in str(error):
            raise UnknownJobError(f"there is no job {job_id} at {show_uri(url)}", job_id) from None
        raise JobError(f"the job server at {show_uri(url)} refused the request: {last_line(error)}") from None


def _token_problem() -> str:
    """Return the end of the sentence about a refused client: which token Ray found here, if any."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return "requires a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH)"
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "rejected the token in RAY_AUTH_TOKEN: it is another cluster's"
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(os.path.expanduser(named or "~/.ray/auth_token"))
    if not path.is_file():
        return (
            f"requires a token, and {'the file of RAY_AUTH_TOKEN_PATH' if named else 'the file'} {path} does not exist"
        )
    return f"rejected the token in {path}: it is another cluster's"


def last_line(error: Exception) -> str:
    """Return the exception from a server's answer, which is the last line of its traceback."""
    text = redact(str(error)).replace("\\n", "\n").strip()
    try:
        text = json.loads(text)["msg"]
    except (ValueError, KeyError, TypeError):
        pass
    lines = [line.strip(" .'\"") for line in text.splitlines() if line.strip(" .'\"")]
    return lines[-1] if lines else type(error).__name__
