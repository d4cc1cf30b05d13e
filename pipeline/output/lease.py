"""One run at a time on one output: `OUTPUT/_tirazh/lease.json` says who writes there, and is renewed while it does.

`build.py` holds the lease; the sink asks before every part whether it is still held (`LeaseToken.check`). No clock is
trusted where it need not be: a run that is gone is told by its process on the same machine, elsewhere by watching that
its lease is not renewed. Parts are whole and the same whoever makes them, so the lease saves work and surprises; what
is written would be right without it. The argument is in docs/commit-protocol.md.
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
from uuid import uuid4

from tirazh.errors import InputError, JobError, OutputError, StorageError
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.process_mark import ProcessMark, mark_process
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import is_remote

logger = logging.getLogger(__name__)

Tell = Callable[[str], None]

# Of the time after which a lease ends: how often it is renewed.
RENEWALS = 4
# Two runs that take an ended lease at the same time, or on a server without conditional uploads, see within this time
# whose name stayed.
SETTLE_S = 2.0
_LOOK_EVERY_S = 0.5
_PATIENCE_S = 5.0
_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # its real name: Ray tells a submitted driver its id in there


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseOwner:
    """What the lease file says. `job` is the id of a submitted job, `since` and `renewed` are seconds since 1970 by the
    holder's clock; the lease ends `lease_s` after a renewal."""

    token: str
    process: ProcessMark
    job: str | None
    since: float
    renewed: float
    lease_s: float

    def to_json(self) -> bytes:
        return json.dumps(asdict(self) | {"renewed": time.time()}, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> LeaseOwner:
        """Raises ValueError, KeyError or TypeError for what is no lease."""
        values = json.loads(data)
        return cls(**values | {"process": ProcessMark(**values["process"])})

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since, UTC)
        job = f", job {self.job}" if self.job else ""
        return f"process {self.process.pid} on {self.process.host}{job}, since {since:%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True, slots=True)
class LeaseToken:
    """A run's right to write, as its tasks on other machines carry it."""

    output: OutputFiles
    token: str

    @property
    def is_held(self) -> bool:
        """Whether the output is still this run's."""
        holder = _parse(_look(self.output))
        return holder is not None and holder.token == self.token

    def check(self) -> None:
        """Raise JobError unless the output is still this run's."""
        if not self.is_held:
            holder = _parse(_look(self.output))
            taken = f"taken over by {holder}" if holder else "taken away (its file is gone or damaged)"
            raise JobError(
                f"this run no longer holds {show_uri(self.output.directory)}: its lease was {taken}; it has stopped "
                "writing, and what it wrote is kept"
            )


class Lease:
    """A lease that is held, and renewed by a thread of its own until it is released or lost."""

    def __init__(self, output: OutputFiles, me: LeaseOwner, *, settled_at: float) -> None:
        self.claim = LeaseToken(output, me.token)
        self._me = me
        self._settled_at = settled_at
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="tirazh-lease", daemon=True)
        self._thread.start()

    def confirm(self) -> None:
        """Raise JobError unless the output is this run's alone. To be called before what cannot be undone or must not
        be mixed; waits where two could have taken the lease at once, at most `SETTLE_S` after it was taken."""
        time.sleep(max(0.0, self._settled_at - time.monotonic()))
        self.claim.check()

    def release(self) -> None:
        """Give the lease back, if it is still ours."""
        self._is_over.set()
        self._thread.join(_PATIENCE_S)
        output = self.claim.output
        with suppress(JobError, OutputError):  # the next run waits for its end, or sees that our process has gone
            self.claim.check()
            output.storage.remove(output.lease)

    def _keep(self) -> None:
        pause = every_s = self._me.lease_s / RENEWALS
        while not self._is_over.wait(pause):
            try:
                self.claim.check()
                self.claim.output.storage.write(self.claim.output.lease, self._me.to_json())
                pause = every_s
            except StorageError as error:
                logger.warning("the lease could not be renewed: %s", error)
                pause = min(1.0, every_s)
            except (JobError, OutputError) as error:
                logger.error("%s", error)
                return


@contextmanager
def hold(output: OutputFiles, *, lease_s: float, tell: Tell | None = None) -> Iterator[Lease]:
    """Hold the lease of `output` for the time of the block. Raises JobError, saying who it is, when another run does.

    A run that was killed on this machine is noticed at once; of one on another machine, its lease must be seen to end:
    `tell` gets a sentence when that takes a while.
    """
    lease = _take(output, lease_s, tell)
    try:
        yield lease
    finally:
        lease.release()


def _take(output: OutputFiles, lease_s: float, tell: Tell | None) -> Lease:
    now = time.time()
    me = LeaseOwner(
        token=uuid4().hex,
        process=mark_process(os.getpid()),
        job=_submitted_id(),
        since=now,
        renewed=now,
        lease_s=lease_s,
    )
    is_first = output.storage.create(output.lease, me.to_json())
    # An upload whose answer was lost is tried again by the libraries, and then finds what it has put there itself.
    if not is_first and not LeaseToken(output, me.token).is_held:
        _wait_for_end(output, tell)
        output.storage.write(output.lease, me.to_json())
    is_sure = is_first and not is_remote(output.directory)
    return Lease(output, me, settled_at=time.monotonic() + (0.0 if is_sure else SETTLE_S))


def _wait_for_end(output: OutputFiles, tell: Tell | None) -> None:
    """Return when whoever holds the lease is gone. Raises JobError as soon as it is seen to live."""
    first, begun, has_told = _look(output), time.monotonic(), False
    while True:
        data = _look(output)
        holder = _parse(data)
        watched_s = time.monotonic() - begun
        if data is None or _is_gone(holder, watched_s):
            return
        if data != first or (holder is not None and holder.process.is_here):
            raise JobError(_refusal(output, holder))
        if tell is not None and not has_told:
            left_s = (holder.lease_s if holder else 0.0) - watched_s
            tell(f"{_held(output, holder)}; waiting up to {left_s:.0f} s to see whether that run still lives")
            has_told = True
        time.sleep(_LOOK_EVERY_S)


def _is_gone(holder: LeaseOwner | None, watched_s: float) -> bool:
    """Whether the holder no longer lives, having been watched for so long without a renewal. A lease that cannot be
    read may be one that is being written at this moment."""
    if holder is None:
        return watched_s > SETTLE_S
    if holder.process.is_here and not holder.process.is_alive:
        return True
    # Twice: clocks of two machines may differ, and a live run taken for a dead one would have to stop.
    return watched_s > holder.lease_s or time.time() - holder.renewed > 2 * holder.lease_s


def _refusal(output: OutputFiles, holder: LeaseOwner | None) -> str:
    age_s = max(0.0, time.time() - holder.renewed) if holder else 0.0
    return (
        f"{_held(output, holder)}, last sign of life {age_s:.0f} s ago; wait for that run or stop it, or choose "
        "another --output"
    )


def _held(output: OutputFiles, holder: LeaseOwner | None) -> str:
    return f"another run writes to {show_uri(output.directory)} ({holder or 'it does not say who'})"


def _look(output: OutputFiles) -> bytes | None:
    try:
        return output.storage.read(output.lease)
    except InputError:  # there is none
        return None


def _parse(data: bytes | None) -> LeaseOwner | None:
    try:
        return None if data is None else LeaseOwner.from_json(data)
    except (ValueError, KeyError, TypeError):
        return None


def _submitted_id() -> str | None:
    """The id that `tirazh submit` printed, in the driver of such a job."""
    try:
        return str(json.loads(os.environ[_JOB_VARIABLE])["metadata"]["job_submission_id"])
    except (KeyError, ValueError, TypeError):
        return None
