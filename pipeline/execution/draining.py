"""Ends a run in order: no more parts start, and those in work are finished and written, for a limited time.

The driver of a submitted job does this when it is told to stop, in a thread: its main thread writes the parts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tirazh.pipeline.execution.metrics_client import MetricsClient
    from tirazh.pipeline.execution.progress import JobProgress

# A run that is stopped takes at most this much longer.
LIMIT_S = 25.0
# The last results are on their way to the sink for at most this long after the last part was written.
_WRITE_S = 3.0
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class _Run:
    metrics: MetricsClient
    progress: JobProgress


# The runs of this process that make parts now.
_runs: list[_Run] = []


@contextmanager
def drainable(metrics: MetricsClient, progress: JobProgress) -> Iterator[None]:
    """Inside the block, `drain` ends this run in order."""
    run = _Run(metrics, progress)
    _runs.append(run)
    try:
        yield
    finally:
        _runs.remove(run)


def drain(limit_s: float = LIMIT_S) -> None:
    """Let the runs of this process start no more parts, and wait until those in work are written.

    Returns after `limit_s` seconds at the latest, and at once if nothing is in work.
    """
    until, quiet_since, written = time.monotonic() + limit_s, time.monotonic(), -1
    while _runs and time.monotonic() < until:
        in_work = sum(run.metrics.drain() or 0 for run in list(_runs))
        now = sum(run.progress.rows_written for run in list(_runs))
        if in_work or now != written:
            quiet_since, written = time.monotonic(), now
        elif time.monotonic() - quiet_since >= _WRITE_S:
            return
        time.sleep(_POLL_S)
