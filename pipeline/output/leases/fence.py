"""The fence: every write to an output is checked against the lease, in every attempt.

A task on another machine receives a `LeaseToken`. A run that lost the lease gets a JobError instead of its
next write; one whose lease is only late, because the storage did not answer, waits for the next renewal.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tirazh.errors import JobError, OutputError, StorageError
from tirazh.pipeline.output.leases.process_mark import clock_name
from tirazh.pipeline.output.leases.record import LeaseRecord, epochs, parse, read_epoch
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.storage.clock import CLOCK
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import keep_trying

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Token → start of the last renewal, in the process that renews (`note_renewal`).
_renewed: dict[str, float] = {}
# Token → (renewals, when this process first saw that count), for leases of machines with another clock.
_seen: dict[str, tuple[int, float]] = {}


@dataclass(frozen=True, slots=True)
class LeaseToken:
    """A run's right to write to an output. It is sent to tasks on other machines.

    `plan_id` is None until the run has announced its plan (`Lease.announce`).
    """

    output: OutputFiles
    epoch: int
    token: str
    lease_s: float
    plan_id: str | None = None

    @property
    def is_held(self) -> bool:
        """Whether this run holds the lease; a late renewal does not count. Raises StorageError."""
        try:
            self.check_owner()
        except StorageError:
            raise
        except JobError:
            return False
        return True

    def check(self) -> None:
        """Raise JobError unless this run holds the lease, and StorageError if its last renewal is too old.

        The latter passes when the run renews its lease, so it is worth another attempt.
        """
        record = self.check_owner()
        age_s = self._age(record)
        if age_s > self.lease_s:
            raise StorageError(
                f"{show_uri(self.output.directory)}: the lease of this run was last renewed {age_s:.0f} s ago and has "
                f"expired after {self.lease_s:g} s; nothing is written until it is renewed"
            )

    def check_owner(self) -> LeaseRecord:
        """Return the record of this run's epoch. Raises JobError unless that epoch is the highest and its own."""
        record = parse(read_epoch(self.output, self.epoch))
        # The listing comes last: it must not be older than anything else that is checked.
        highest = max(epochs(self.output), default=0)
        if highest > self.epoch:
            owner = parse(read_epoch(self.output, highest))
            raise JobError(self._lost(f"taken over by {owner or 'another run'}"))
        if highest < self.epoch or record is None:
            raise JobError(self._lost("removed (its file is missing or damaged)"))
        if record.token != self.token:
            raise JobError(self._lost(f"taken over by {record}"))
        if record.released:
            raise JobError(self._lost("released at the end of the run"))
        return record

    def guard(self, action: Callable[[], T], *, undo: Callable[[], None] | None = None) -> T:
        """Call `action`, a write to the output, while this run holds the lease, and return its result.

        It is tried again after a StorageError, for as long as `keep_trying` does, and the lease is checked
        before every attempt; so `action` must be idempotent. A successor waits for writes that began before it
        took the lease (`Lease.settle`), but a process may be stopped for longer in the middle of a write. So
        after an attempt that took longer than half of `lease_s` the lease is checked once more. If it is lost
        and every later holder has another plan, `undo` is called to remove what was written; it is not called if
        `action` returned False, for nothing created. Raises JobError if the lease is lost.
        """

        def attempt() -> T:
            start = CLOCK.since_boot()
            self.check()
            result = action()
            if CLOCK.since_boot() - start > self.lease_s / 2:
                try:
                    self.check_owner()
                except StorageError:
                    raise
                except JobError:
                    if undo is not None and result is not False:
                        self._undo(undo)
                    raise
            return result

        return keep_trying(attempt)

    def _undo(self, undo: Callable[[], None]) -> None:
        try:
            if self._is_followed_by_other_plans():
                undo()
        except (JobError, OutputError) as error:
            logger.warning("a late write of this run could not be removed: %s", error)

    def _is_followed_by_other_plans(self) -> bool:
        """Whether all later holders are known and have another plan.

        A run of the same plan may have counted the file that was written late, so it has to stay.
        """
        highest = max(epochs(self.output), default=0)
        newest = parse(read_epoch(self.output, highest))
        if newest is None or self.plan_id is None:
            return False
        later = {holder.epoch: holder.plan_id for holder in newest.holders() if holder.epoch > self.epoch}
        are_known = later.keys() == set(range(self.epoch + 1, highest + 1)) and None not in later.values()
        return are_known and self.plan_id not in later.values()

    def _age(self, record: LeaseRecord) -> float:
        """Seconds since the last renewal, as far as this process can know; never by the wall clock."""
        now = CLOCK.since_boot()
        if self.token in _renewed:
            return now - _renewed[self.token]
        if record.clock and record.clock == clock_name():
            return now - record.renewed_at
        if _seen.get(self.token, (-1, 0.0))[0] != record.renewals:
            _seen[self.token] = (record.renewals, now)
        return now - _seen[self.token][1]

    def _lost(self, what: str) -> str:
        return (
            f"this run no longer holds {show_uri(self.output.directory)}: its lease was {what}; it has stopped "
            "writing, and the parts it has written are kept"
        )


def note_renewal(token: str, started: float) -> None:
    """Remember in the process of the owner when its last successful renewal started."""
    _renewed[token] = started


def forget_renewals(token: str) -> None:
    """Forget a lease that this process no longer renews."""
    _renewed.pop(token, None)
