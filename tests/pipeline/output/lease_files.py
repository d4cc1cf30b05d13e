"""Lease files as other runs leave them."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from uuid import uuid4

from tirazh.pipeline.output.leases import lease as lease_module
from tirazh.pipeline.output.leases.lease import Lease
from tirazh.pipeline.output.leases.process_mark import ProcessMark, clock_name, mark_process
from tirazh.pipeline.output.leases.record import FormerHolder, LeaseRecord, epochs, parse, read_epoch
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.storage.clock import CLOCK

ELSEWHERE = ProcessMark(host="gpu-3", machine="another", pid=4711, started="1")
DEAD = replace(mark_process(os.getpid()), started="1")


def leave_lease(
    output: OutputFiles,
    process: ProcessMark,
    *,
    epoch: int = 1,
    lease_s: float = 60.0,
    renewals: int = 0,
    plan_id: str | None = None,
    former: tuple[FormerHolder, ...] = (),
) -> LeaseRecord:
    """Write the file of an epoch as `process` would."""
    now = time.time()
    record = LeaseRecord(
        epoch=epoch,
        token=uuid4().hex,
        process=process,
        job=None,
        plan_id=plan_id,
        lease_s=lease_s,
        settle_s=lease_s,
        since=now - 300,
        renewed=now,
        clock=clock_name() if process.is_here else "another clock",
        renewed_at=CLOCK.since_boot(),
        renewals=renewals,
        former=former,
    )
    output.storage.write(output.lease_file(epoch), record.to_json())
    return record


def newest(output: OutputFiles) -> LeaseRecord:
    record = parse(read_epoch(output, max(epochs(output))))
    assert record is not None
    return record


def enter(output: OutputFiles, lease_s: float = 60.0) -> Lease:
    """Hold a lease without releasing it, as a run that is killed does."""
    return lease_module._take(output, lease_s, None)


def kill(output: OutputFiles, lease: Lease) -> None:
    """End a run as SIGKILL does: nothing is released, and its process is gone."""
    lease._is_released.set()
    record = newest(output)
    output.storage.write(output.lease_file(record.epoch), replace(record, process=DEAD).to_json())
