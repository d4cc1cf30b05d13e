"""The lease: one run at a time writes to an output directory.

A run takes the lease by creating the file of the next epoch (`lease_record.py`), which succeeds for exactly
one of several contenders, and renews it from a thread. Every write is fenced (`fence.py`). A dead owner on
this machine is recognised by its process; elsewhere an owner is dead when its lease is not renewed while this
run watches it. The wall clock decides nothing. docs/commit-protocol.md says what this gives.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from uuid import uuid4

from tirazh.errors import JobError, OutputError, StorageError
from tirazh.pipeline.output.leases.fence import LeaseToken, forget_renewals, note_renewal
from tirazh.pipeline.output.leases.process_mark import clock_name, mark_process
from tirazh.pipeline.output.leases.record import FormerHolder, LeaseRecord, epochs, parse, read_epoch, wall_age
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.storage.clock import CLOCK
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import is_remote

__all__ = ["RACE_WINDOW_S", "RENEWALS", "Lease", "LeaseToken", "Tell", "hold"]

logger = logging.getLogger(__name__)

Tell = Callable[[str], None]

# Renewals within the time after which a lease expires.
RENEWALS = 4
# On a server without conditional uploads two runs may create the same epoch. Within this time each of them
# sees whose token stayed in the file.
RACE_WINDOW_S = 2.0
_POLL_EVERY_S = 0.5
_JOIN_TIMEOUT_S = 5.0
_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray passes the id of a submitted job in a variable of this very name


class Lease:
    """A held lease. A thread renews it until it is released or lost."""

    def __init__(
        self,
        output: OutputFiles,
        record: LeaseRecord,
        *,
        is_certain: bool,
        wait_s: float = 0.0,
        tell: Tell | None = None,
    ) -> None:
        """`wait_s` is how long writes of former holders may be on their way: their `settle_s`."""
        self._record = record
        self._wait_s = wait_s
        self._tell = tell
        self._taken_at = CLOCK.monotonic()
        self._confirmable_at = self._taken_at + (0.0 if is_certain else RACE_WINDOW_S)
        self._is_written = threading.Lock()
        self._is_released = threading.Event()
        self._output = output
        note_renewal(record.token, record.renewed_at)
        self._thread = threading.Thread(target=self._keep, name="tirazh-lease", daemon=True)
        self._thread.start()

    @property
    def token(self) -> LeaseToken:
        """What tasks need to check this lease. Ask again after `announce`, which adds the plan."""
        record = self._record
        return LeaseToken(self._output, record.epoch, record.token, record.lease_s, record.plan_id)

    @property
    def job(self) -> str | None:
        """The id of the submitted job that this process runs, None if it was not submitted."""
        return self._record.job

    def confirm(self) -> None:
        """Raise JobError unless only this run holds the output.

        To be called before steps that cannot be undone or must not be interleaved with those of
        another run. If two runs could have taken the lease at once, it waits until `RACE_WINDOW_S`
        after it was taken.
        """
        CLOCK.sleep(max(0.0, self._confirmable_at - CLOCK.monotonic()))
        self.token.check()

    def announce(self, plan_id: str) -> None:
        """Record which plan this run follows, before it writes anything of that plan. Raises JobError if lost."""
        self._write(lambda record: replace(record, plan_id=plan_id))

    def settle(self) -> None:
        """Wait until no write of a former holder with another plan can be on its way.

        To be called before files of other plans are removed for the last time. Such a holder passed its check
        before this run took the lease, and a write takes less than its `settle_s`. Returns at once if the former
        holders released the lease or had the same plan. Raises JobError if the lease is lost.
        """
        record = self._record
        late = {holder.plan_id for holder in record.former if holder.may_write}
        left_s = max(0.0, self._taken_at + self._wait_s - CLOCK.monotonic())
        if late and left_s and (late != {record.plan_id} or None in late):
            if self._tell is not None:
                self._tell(f"waiting {left_s:.0f} s for the end of writes of a run that lost this output")
            CLOCK.sleep(left_s)
            left_s = 0.0
        if late and not left_s:
            self._write(LeaseRecord.settled)

    def renew(self) -> None:
        """Renew the lease once. Raises JobError if it is lost."""
        self._write(lambda record: record)

    def release(self, *, writes_ended: bool) -> None:
        """Mark the lease as released, if this run still holds it, and remove the files of earlier epochs.

        `writes_ended` is whether the run ended well, with all of its tasks.
        """
        self._is_released.set()
        self._thread.join(_JOIN_TIMEOUT_S)
        # If this fails, the next run sees that our process has ended, or waits until the lease
        # expires.
        with suppress(JobError, OutputError):
            self._write(lambda record: replace(record, released=True, writes_ended=writes_ended))
            for epoch in epochs(self._output):
                if epoch < self._record.epoch:
                    self._output.storage.remove(self._output.lease_file(epoch))
        forget_renewals(self._record.token)

    def _write(self, change: Callable[[LeaseRecord], LeaseRecord]) -> None:
        """Rewrite this run's own file, which also renews the lease. No other run ever writes that file."""
        with self._is_written:
            started = CLOCK.since_boot()
            self.token.check_owner()
            record = change(self._record)
            record = replace(record, renewals=record.renewals + 1, renewed_at=started, renewed=time.time())
            self._output.storage.write(self._output.lease_file(record.epoch), record.to_json())
            self._record = record
            note_renewal(record.token, started)

    def _keep(self) -> None:
        """Renew the lease until it is released or lost, whatever else goes wrong."""
        pause = every_s = self._record.lease_s / RENEWALS
        while not self._is_released.wait(pause):
            try:
                self.renew()
                pause = every_s
                continue
            except StorageError as error:
                problem: Exception = error
            except JobError as error:
                if not self._is_released.is_set():
                    logger.error("%s", error)
                return
            except Exception as error:  # noqa: BLE001 out of memory, for example: a run has to keep its lease
                problem = error
            pause = min(1.0, every_s)
            with suppress(Exception):  # to log it may fail for the same reason
                logger.warning("the lease could not be renewed: %s: %s", type(problem).__name__, problem)


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
    except BaseException:
        lease.release(writes_ended=False)
        raise
    lease.release(writes_ended=True)


def _take(output: OutputFiles, lease_s: float, tell: Tell | None) -> Lease:
    while True:
        highest = max(epochs(output), default=0)
        former = _wait_until_free(output, highest, lease_s, tell) if highest else None
        record = _first_record(highest, former, lease_s)
        is_created = output.storage.create(output.lease_file(record.epoch), record.to_json())
        # If the response to an upload is lost, the client library retries it and finds the file that it
        # has just created.
        if is_created or _is_ours(output, record):
            if LeaseToken(output, record.epoch, record.token, lease_s).is_held:
                return Lease(
                    output,
                    record,
                    is_certain=is_created and not is_remote(output.directory),
                    wait_s=former.settle_s if former is not None else lease_s,
                    tell=tell,
                )


def _is_ours(output: OutputFiles, record: LeaseRecord) -> bool:
    found = parse(read_epoch(output, record.epoch))
    return found is not None and found.token == record.token


def _wait_until_free(output: OutputFiles, epoch: int, lease_s: float, tell: Tell | None) -> LeaseRecord | None:
    """Return the record of `epoch` once another run may take the lease; None if it is missing or damaged.

    Raises JobError if its owner is alive. `lease_s` is how long a lease that cannot be read is watched.
    """
    first, start, has_told = read_epoch(output, epoch), CLOCK.monotonic(), False
    while True:
        watched_s = CLOCK.monotonic() - start
        data = read_epoch(output, epoch)
        record = parse(data)
        if data is None or max(epochs(output), default=0) != epoch or _is_free(record, watched_s, lease_s):
            return record
        if data != first or (record is not None and _is_fresh_here(record)):
            raise JobError(_refusal(output, record))
        if tell is not None and not has_told:
            left_s = (record.lease_s if record else lease_s) - watched_s
            tell(f"{_held(output, record)}; waiting up to {left_s:.0f} s to see whether that run is still alive")
            has_told = True
        CLOCK.sleep(_POLL_EVERY_S)


def _is_free(record: LeaseRecord | None, watched_s: float, lease_s: float) -> bool:
    """Whether a lease that has not been renewed for `watched_s` seconds may be taken."""
    if record is None:
        return watched_s > lease_s
    is_dead_here = record.process.is_here and not record.process.is_alive
    return record.released or is_dead_here or watched_s > record.lease_s


def _is_fresh_here(record: LeaseRecord) -> bool:
    """Whether the owner runs on this machine and has renewed the lease in time; it may have been stopped since."""
    is_comparable = record.process.is_here and bool(record.clock) and record.clock == clock_name()
    return is_comparable and CLOCK.since_boot() - record.renewed_at <= record.lease_s


def _refusal(output: OutputFiles, record: LeaseRecord | None) -> str:
    age_s = wall_age(record) if record else 0.0
    return (
        f"{_held(output, record)}, last heartbeat {age_s:.0f} s ago; wait for that run or stop it, or choose "
        "another --output"
    )


def _held(output: OutputFiles, record: LeaseRecord | None) -> str:
    return f"another run writes to {show_uri(output.directory)} ({record or 'unknown owner'})"


def _first_record(highest: int, former: LeaseRecord | None, lease_s: float) -> LeaseRecord:
    """The record of the epoch after `highest`, whose last holder was `former`; None if it is unknown."""
    now = time.time()
    holders = (
        former.holders()
        if former is not None
        else (FormerHolder(epoch=highest, plan_id=None, may_write=True),)
        if highest
        else ()
    )
    may_write = any(holder.may_write for holder in holders)
    return LeaseRecord(
        epoch=highest + 1,
        token=uuid4().hex,
        process=mark_process(os.getpid()),
        job=_submitted_id(),
        plan_id=None,
        lease_s=lease_s,
        settle_s=max(lease_s, former.settle_s) if former is not None and may_write else lease_s,
        since=now,
        renewed=now,
        clock=clock_name(),
        renewed_at=CLOCK.since_boot(),
        former=holders,
    )


def _submitted_id() -> str | None:
    """The id that `tirazh submit` printed, if this process is the driver of a submitted job."""
    try:
        return str(json.loads(os.environ[_JOB_VARIABLE])["metadata"]["job_submission_id"])
    except (KeyError, ValueError, TypeError):
        return None
