"""Follows a job on a cluster: prints its log until it ends, also across outages of the head node."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tirazh.errors import JobError, RequestError, TirazhError
from tirazh.jobs.cluster.job_server import FINISHED, FORGOTTEN, UnknownJobError, job_info, job_logs
from tirazh.jobs.interrupts import Interrupted
from tirazh.pipeline.storage.errors import show_uri

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

POLL_S = 2.0
# `--follow` gives up after this long without an answer; a head node may restart in the meantime.
LOST_AFTER_S = 120.0
# A job that the server knew is forgotten if the server denies it for this long.
DENIED_AFTER_S = 10.0


def follow(client: JobSubmissionClient, job_id: str, write: Callable[[str], object], *, is_known: bool = False) -> int:
    """Print a job's log while it runs and return the job's exit code.

    Polls with separate requests, so that a short outage of the head node does not end the command. `is_known`
    says that the server has accepted this job. Raises JobError when the server does not answer for
    LOST_AFTER_S seconds, and when it has forgotten the job.
    """
    printed, outage = 0, _Outage(client, job_id, is_known=is_known)
    try:
        while True:
            try:
                info, text = job_info(client, job_id), job_logs(client, job_id)
            except (RequestError, JobError) as error:
                outage.bear(error)
            else:
                outage.end()
                # Ray returns the whole log each time; only its new end is printed.
                write(text[printed:])
                printed = max(printed, len(text))
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

        Raises `error` for a job that the server never knew, else JobError.
        """
        if not self._is_known:
            raise error
        now = time.monotonic()
        if isinstance(error, UnknownJobError):
            self._denied_since = now if self._denied_since is None else self._denied_since
            if now - self._denied_since >= DENIED_AFTER_S:
                raise JobError(f"{self._job_id} is lost: {FORGOTTEN}") from None
        elif now - self._last_answer >= LOST_AFTER_S:
            raise JobError(
                f"no Ray job server has answered at {show_uri(self._client.get_address())} for {LOST_AFTER_S:.0f} s; "
                f"{self._job_id} may still run: `tirazh logs {self._job_id} --follow` shows it when the head is back"
            ) from None
