"""The job server of a Ray cluster: connect to it, query, follow and stop jobs."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tirazh.errors import JobError, RequestError
from tirazh.jobs.interrupts import Interrupted
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.secrets import redact

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

CONNECT_TIMEOUT_S = 10.0
POLL_S = 2.0
# `--follow` gives up after this long without an answer; a head node may restart in the meantime.
LOST_AFTER_S = 120.0
FINISHED = ("SUCCEEDED", "FAILED", "STOPPED")
# These set their own level to INFO when they are imported.
_VERBOSE_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


def connect(address: str | None) -> JobSubmissionClient:
    """Connect to the job server at a URL such as `http://head:8265`.

    Ray reads the token from the environment (RAY_AUTH_MODE, RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH).
    Raises RequestError within seconds when the server does not answer.
    """
    url = _server_url(address)
    _check_reachable(url)
    from ray.job_submission import JobSubmissionClient

    for name in _VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    with _answers(url), _without_variables():
        return JobSubmissionClient(url)


def job_info(client: JobSubmissionClient, job_id: str) -> dict[str, Any]:
    """Return what the server knows about a job; `start_time` and `end_time` are in seconds."""
    with _answers(show_uri(client.get_address()), job_id=job_id):
        info = client.get_job_info(job_id)
    return {
        "id": job_id,
        "status": str(getattr(info.status, "value", info.status)),
        "message": info.message or "",
        "start_time": (info.start_time or 0) / 1000,
        "end_time": (info.end_time or 0) / 1000,
        "driver_exit_code": info.driver_exit_code,
        "metadata": info.metadata or {},
    }


def job_logs(client: JobSubmissionClient, job_id: str) -> str:
    """Return everything that the job has printed so far."""
    with _answers(show_uri(client.get_address()), job_id=job_id):
        return str(client.get_job_logs(job_id))


def stop_job(client: JobSubmissionClient, job_id: str, *, timeout_s: float = 60.0) -> dict[str, Any]:
    """Stop a job and wait until it has ended. Returns its info; a finished job is left as it is."""
    info = job_info(client, job_id)
    if info["status"] in FINISHED:
        return info
    with _answers(show_uri(client.get_address()), job_id=job_id):
        client.stop_job(job_id)
    until = time.monotonic() + timeout_s
    while info["status"] not in FINISHED:
        if time.monotonic() > until:
            raise JobError(f"job {job_id} is still {info['status']} {timeout_s:.0f} s after it was asked to stop")
        time.sleep(0.5)
        info = job_info(client, job_id)
    return info


def follow(client: JobSubmissionClient, job_id: str, write: Callable[[str], object]) -> int:
    """Print a job's log while it runs and return the job's exit code.

    Polls with separate requests, so that a short outage of the head node does not end the command.
    """
    printed, last_answer = 0, time.monotonic()
    try:
        while True:
            try:
                info = job_info(client, job_id)
                text = job_logs(client, job_id)
            except (RequestError, JobError):
                if time.monotonic() - last_answer > LOST_AFTER_S:
                    raise
                time.sleep(POLL_S)
                continue
            last_answer = time.monotonic()
            # Ray returns the whole log each time; only its new end is printed.
            write(text[printed:])
            printed = len(text)
            if info["status"] in FINISHED:
                return exit_code(info)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        raise Interrupted(f"{job_id} continues on the cluster; `tirazh stop {job_id}` ends it") from None


def exit_code(info: dict[str, Any]) -> int:
    """Return 0 for a job that succeeded, 2 for a wrong request, and 1 for any other end."""
    if info["status"] == "SUCCEEDED":
        return 0
    return 2 if info["driver_exit_code"] == 2 else 1


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
    """Raise RequestError when no TCP connection is possible; Ray's own client would wait for minutes."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error)
        raise RequestError(f"no Ray job server answers at {show_uri(url)} ({reason})") from None


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
        raise RequestError(
            f"the cluster at {show_uri(url)} requires a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN "
            "(or RAY_AUTH_TOKEN_PATH)"
        ) from None
    except (ConnectionError, requests.exceptions.RequestException):
        raise RequestError(f"no Ray job server answers at {show_uri(url)}") from None
    except RuntimeError as error:
        if job_id and "status code 404" in str(error):
            raise RequestError(f"there is no job {job_id} at {show_uri(url)}") from None
        raise JobError(f"the job server at {show_uri(url)} refused the request: {_last_line(error)}") from None


def _last_line(error: Exception) -> str:
    """Return the exception from a server's answer, which is the last line of its traceback."""
    text = redact(str(error)).replace("\\n", "\n").strip()
    try:
        text = json.loads(text)["msg"]
    except (ValueError, KeyError, TypeError):
        pass
    lines = [line.strip(" .'\"") for line in text.splitlines() if line.strip(" .'\"")]
    return lines[-1] if lines else type(error).__name__
