"""The driver of a submitted job: checks the cluster first, prints figures, and ends in order when it is stopped.

`start.py` marks its process as one. In any other process these functions change nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from tirazh.jobs.cluster.start import ID_VARIABLE

if TYPE_CHECKING:
    from tirazh.jobs.progress import JobProgressDisplay, Style
    from tirazh.pipeline.spec import JobSpec, StepsSpec


def is_driver() -> bool:
    """Whether this process is the driver of a submitted job."""
    return ID_VARIABLE in os.environ


def job_display(style: Style | None, stream: TextIO, *, began: float | None = None) -> JobProgressDisplay:
    """Return the display of a job: that of a driver prints figures for `tirazh status`, too.

    `began` is the time of `time.monotonic()` from which the wall time counts; by default now.
    """
    from tirazh.jobs.cluster.job_log import LoggedProgress
    from tirazh.jobs.progress import JobProgressDisplay

    kind = LoggedProgress if is_driver() else JobProgressDisplay
    return kind(style, stream=stream, began=began)


@contextmanager
def checked_cluster(spec: JobSpec | StepsSpec, display: JobProgressDisplay) -> Iterator[None]:
    """Inside the block of a driver, Ray is connected and all machines can work for the job. Raises RequestError."""
    if not is_driver():
        yield
        return
    from tirazh.jobs.cluster.job_log import READY, LoggedProgress
    from tirazh.pipeline.execution.cluster.checks import check_cluster
    from tirazh.pipeline.execution.ray_session import ray_cluster

    with ray_cluster(spec.address, extra_cpus=0):
        check_cluster(spec, tell=display.say)
        if isinstance(display, LoggedProgress):
            display.print_figures({"state": READY})
        yield


def log_result(display: JobProgressDisplay, manifest: Mapping[str, Any]) -> None:
    """Print the figures of a finished output, of which this run may have made nothing."""
    from tirazh.jobs.cluster.job_log import LoggedProgress

    if isinstance(display, LoggedProgress):
        rows, parts = manifest.get("rows"), manifest.get("num_parts")
        figures = {"rows": rows, "rows_safe": rows, "rows_total": rows, "parts": parts, "parts_total": parts}
        display.print_figures({name: value for name, value in figures.items() if value is not None})


def ending_in_order(display: JobProgressDisplay) -> Callable[[], None] | None:
    """Return what a driver does between the signal to stop and its end; None for any other process."""
    if not is_driver():
        return None

    def end() -> None:
        from tirazh.pipeline.execution.draining import LIMIT_S, drain

        display.say(f"stopping: parts in work are finished, for at most {LIMIT_S:.0f} s")
        drain()

    return end
