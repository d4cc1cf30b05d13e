"""The lease: one run at a time writes to an output directory.

`OUTPUT/_tirazh/lease.json` names the run that writes, and that run renews it. The sink checks the lease
before it writes each part (`LeaseToken.check`). Clocks are trusted as little as possible: on the same
machine a dead owner is recognised by its process, on another machine by a lease that is no longer
renewed. Part files are atomic and do not depend on the run that writes them, so the lease is not needed
for correctness: it avoids duplicated work and surprises. docs/commit-protocol.md has the argument.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TypeVar
from uuid import uuid4

from tirazh.errors import InputError, JobError, OutputError, StorageError
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.process_mark import ProcessMark, mark_process
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import is_remote, keep_trying

logger = logging.getLogger(__name__)

Tell = Callable[[str], None]
T = TypeVar("T")

# Renewals within the time after which a lease expires.
RENEWALS = 4
# Two runs may take an expired lease at the same time, or on a server without conditional uploads.
# Within this time each of them sees whose token stayed in the file.
RACE_WINDOW_S = 2.0
_POLL_EVERY_S = 0.5
_JOIN_TIMEOUT_S = 5.0
_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray passes the id of a submitted job in a variable of this very name


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseOwner:
    """The content of the lease file.

    `job` is the id of a submitted job. `since` and `renewed` are seconds since 1970 by the owner's
    clock. The lease expires `lease_s` seconds after its last renewal.
    """

    token: str
    process: ProcessMark
    job: str | None
    since: float
    renewed: float
    lease_s: float

    def to_json(self) -> bytes:
        """Serialise the lease as renewed at this moment."""
        return json.dumps(asdict(self) | {"renewed": time.time()}, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> LeaseOwner:
        """Parse a lease file. Raises ValueError, KeyError or TypeError for anything else."""
        values = json.loads(data)
        return cls(**values | {"process": ProcessMark(**values["process"])})

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since, UTC)
        job = f", job {self.job}" if self.job else ""
        return f"process {self.process.pid} on {self.process.host}{job}, since {since:%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True, slots=True)
class LeaseToken:
    """A run's right to write to an output. Tasks on other machines receive it."""

    output: OutputFiles
    token: str

    @property
    def is_held(self) -> bool:
        """Whether this run still owns the output."""
        owner = _parse(_read_lease(self.output))
        return owner is not None and owner.token == self.token

    def guard(self, action: Callable[[], T], *, undo: Callable[[], None] | None = None) -> T:
        """Call `action`, checking the lease before each attempt, and return its result."""

        def attempt() -> T:
            self.check()
            return action()

        return keep_trying(attempt)

    def check(self) -> None:
        """Raise JobError unless this run still owns the output."""
        if not self.is_held:
            owner = _parse(_read_lease(self.output))
            taken = f"taken over by {owner}" if owner else "removed (its file is missing or damaged)"
            raise JobError(
                f"this run no longer holds {show_uri(self.output.directory)}: its lease was {taken}; it has stopped "
                "writing, and the parts it has written are kept"
            )


class Lease:
    """A held lease. A thread renews it until it is released or lost."""

    def __init__(self, output: OutputFiles, owner: LeaseOwner, *, confirmable_at: float) -> None:
        self.token = LeaseToken(output, owner.token)
        self._owner = owner
        self._confirmable_at = confirmable_at
        self._is_released = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="tirazh-lease", daemon=True)
        self._thread.start()

    def confirm(self) -> None:
        """Raise JobError unless only this run owns the output.

        To be called before steps that cannot be undone or must not be interleaved with those of
        another run. If two runs could have taken the lease at once, it waits until `RACE_WINDOW_S`
        after it was taken.
        """
        time.sleep(max(0.0, self._confirmable_at - time.monotonic()))
        self.token.check()

    def announce(self, plan_id: str) -> None:
        """Record the id of the plan that this run follows."""

    def settle(self) -> None:
        """Wait until no write of a former owner can still arrive."""

    def release(self) -> None:
        """Remove the lease file, if this run still owns the output."""
        self._is_released.set()
        self._thread.join(_JOIN_TIMEOUT_S)
        output = self.token.output
        # If this fails, the next run sees that our process has ended, or waits until the lease
        # expires.
        with suppress(JobError, OutputError):
            self.token.check()
            output.storage.remove(output.lease)

    def _renew(self) -> None:
        pause = every_s = self._owner.lease_s / RENEWALS
        while not self._is_released.wait(pause):
            try:
                self.token.check()
                self.token.output.storage.write(self.token.output.lease, self._owner.to_json())
                pause = every_s
            except StorageError as error:
                logger.warning("the lease could not be renewed: %s", error)
                pause = min(1.0, every_s)
            except (JobError, OutputError) as error:
                logger.error("%s", error)
                return


@contextmanager
def hold(output: OutputFiles, *, lease_s: float, tell: Tell | None = None) -> Iterator[Lease]:
    """Hold the lease of `output` inside the block.

    Raises JobError, naming the owner, if another run holds it. A dead owner on this machine is
    recognised at once. The lease of an owner on another machine must expire first; `tell` is then
    called with a sentence about the wait.
    """
    lease = _take(output, lease_s, tell)
    try:
        yield lease
    finally:
        lease.release()


def _take(output: OutputFiles, lease_s: float, tell: Tell | None) -> Lease:
    now = time.time()
    owner = LeaseOwner(
        token=uuid4().hex,
        process=mark_process(os.getpid()),
        job=_submitted_id(),
        since=now,
        renewed=now,
        lease_s=lease_s,
    )
    is_first = output.storage.create(output.lease, owner.to_json())
    # If the response to an upload is lost, the client library retries it and finds the file that it
    # has just created.
    if not is_first and not LeaseToken(output, owner.token).is_held:
        _wait_until_expired(output, tell)
        output.storage.write(output.lease, owner.to_json())
    is_sure = is_first and not is_remote(output.directory)
    return Lease(output, owner, confirmable_at=time.monotonic() + (0.0 if is_sure else RACE_WINDOW_S))


def _wait_until_expired(output: OutputFiles, tell: Tell | None) -> None:
    """Return once the owner of the lease is dead or its lease has expired.

    Raises JobError if the owner is alive.
    """
    first, start, has_told = _read_lease(output), time.monotonic(), False
    while True:
        data = _read_lease(output)
        owner = _parse(data)
        watched_s = time.monotonic() - start
        if data is None or _is_expired(owner, watched_s):
            return
        if data != first or (owner is not None and owner.process.is_here):
            raise JobError(_refusal(output, owner))
        if tell is not None and not has_told:
            left_s = (owner.lease_s if owner else 0.0) - watched_s
            tell(f"{_held(output, owner)}; waiting up to {left_s:.0f} s to see whether that run is still alive")
            has_told = True
        time.sleep(_POLL_EVERY_S)


def _is_expired(owner: LeaseOwner | None, watched_s: float) -> bool:
    """Whether the lease has expired, after `watched_s` seconds without a renewal.

    A lease that cannot be parsed may be one that is being written at this moment.
    """
    if owner is None:
        return watched_s > RACE_WINDOW_S
    if owner.process.is_here and not owner.process.is_alive:
        return True
    # Twice the time by the clock: the clocks of two machines may differ, and a live run must not
    # lose its lease.
    return watched_s > owner.lease_s or time.time() - owner.renewed > 2 * owner.lease_s


def _refusal(output: OutputFiles, owner: LeaseOwner | None) -> str:
    age_s = max(0.0, time.time() - owner.renewed) if owner else 0.0
    return (
        f"{_held(output, owner)}, last heartbeat {age_s:.0f} s ago; wait for that run or stop it, or choose "
        "another --output"
    )


def _held(output: OutputFiles, owner: LeaseOwner | None) -> str:
    return f"another run writes to {show_uri(output.directory)} ({owner or 'unknown owner'})"


def _read_lease(output: OutputFiles) -> bytes | None:
    try:
        return output.storage.read(output.lease)
    except InputError:  # there is no lease file
        return None


def _parse(data: bytes | None) -> LeaseOwner | None:
    try:
        return None if data is None else LeaseOwner.from_json(data)
    except (ValueError, KeyError, TypeError):
        return None


def _submitted_id() -> str | None:
    """The id that `tirazh submit` printed, if this process is the driver of a submitted job."""
    try:
        return str(json.loads(os.environ[_JOB_VARIABLE])["metadata"]["job_submission_id"])
    except (KeyError, ValueError, TypeError):
        return None
