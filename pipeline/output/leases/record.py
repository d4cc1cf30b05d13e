"""The files of the lease: one per epoch, `_tirazh/leases/00000017.json`.

An epoch is a fencing token: a number that only grows. The run that created the file of the highest epoch
holds the lease. A file is created by one run only, and from then on only that run writes it. So all that a
storage has to offer is to create a file unless it exists.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from tirazh.errors import InputError
from tirazh.pipeline.output.leases.process_mark import ProcessMark
from tirazh.pipeline.output.names import OutputFiles

_EPOCH = re.compile(r"(\d{8,})\.json")
_MAX_HISTORY = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class FormerHolder:
    """A holder of an earlier epoch.

    `plan_id` is None if that run had not yet announced its plan, and so had written nothing of it, or if its
    record cannot be read. `may_write` is whether a write that it began before it lost the lease may still be on
    its way: it did not end well, and no later holder has waited for the end of such writes.
    """

    epoch: int
    plan_id: str | None
    may_write: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseRecord:
    """The content of one lease file.

    `job` is the id of a submitted job. `since` and `renewed` are seconds since 1970 by the owner's clock; they
    are shown to people and decide nothing. `renewed_at` is the start of the last renewal by the clock that
    `clock` names, and `renewals` counts them. Without a renewal the lease expires after `lease_s` seconds.
    `settle_s` is how long a successor waits for the end of writes that began before it took the lease.
    `released`: the owner has ended, and another run may take the lease at once. `writes_ended`: it ended well,
    so none of its tasks is still writing.
    """

    epoch: int
    token: str
    process: ProcessMark
    job: str | None
    plan_id: str | None
    lease_s: float
    settle_s: float
    since: float
    renewed: float
    clock: str
    renewed_at: float
    renewals: int = 0
    released: bool = False
    writes_ended: bool = False
    former: tuple[FormerHolder, ...] = ()

    def to_json(self) -> bytes:
        """Serialise the record."""
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> LeaseRecord:
        """Parse a lease file. Raises ValueError, KeyError or TypeError for anything else."""
        values = json.loads(data)
        record = cls(
            **values
            | {
                "process": ProcessMark(**values["process"]),
                "former": tuple(FormerHolder(**holder) for holder in values["former"]),
            }
        )
        if not isinstance(record.lease_s, int | float) or not isinstance(record.epoch, int):
            raise TypeError("its numbers must be numbers")
        return record

    def holders(self) -> tuple[FormerHolder, ...]:
        """The earlier holders and this one, as its successor sees them."""
        last = FormerHolder(
            epoch=self.epoch, plan_id=self.plan_id, may_write=not self.writes_ended and self.plan_id is not None
        )
        return (*self.former, last)[-_MAX_HISTORY:]

    def settled(self) -> LeaseRecord:
        """The record once all writes of earlier holders have ended."""
        return replace(self, former=tuple(replace(holder, may_write=False) for holder in self.former))

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since, UTC)
        job = f", job {self.job}" if self.job else ""
        return f"process {self.process.pid} on {self.process.host}{job}, since {since:%Y-%m-%d %H:%M:%S} UTC"


def epochs(output: OutputFiles) -> list[int]:
    """The epochs whose files exist, in ascending order. Takes one listing."""
    names = output.storage.names(output.leases)
    return sorted(int(match[1]) for match in map(_EPOCH.fullmatch, names) if match is not None)


def read_epoch(output: OutputFiles, epoch: int) -> bytes | None:
    """The content of the file of `epoch`, or None if there is none."""
    try:
        return output.storage.read(output.lease_file(epoch))
    except InputError:
        return None


def parse(data: bytes | None) -> LeaseRecord | None:
    """The record in `data`, or None if it is missing or damaged."""
    try:
        return None if data is None else LeaseRecord.from_json(data)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def wall_age(record: LeaseRecord) -> float:
    """Seconds since the last renewal by the wall clocks of two machines: only for messages."""
    return max(0.0, time.time() - record.renewed)
