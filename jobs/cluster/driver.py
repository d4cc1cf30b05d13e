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
    from tirazh.jobs.cluster.working_dir import AnySpec
    from tirazh.jobs.progress import Display, JobProgressDisplay, Style
    from tirazh.jobs.training_progress import TrainingDisplay

# Seconds that a driver keeps for its own end after a checkpoint is saved.
_ENDING_S = 15.0


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


def training_display(style: Style | None, stream: TextIO, *, output: str) -> TrainingDisplay:
    """Return the display of a training: that of a driver prints figures for `tirazh status`, too."""
    from tirazh.jobs.training_progress import TrainingDisplay

    if not is_driver():
        return TrainingDisplay(style, stream=stream)
    from tirazh.jobs.cluster.job_log import LoggedTraining
    from tirazh.pipeline.finetune.saved_steps import newest_saved_step

    return LoggedTraining(style, stream=stream, saved_step=lambda: newest_saved_step(output))


def saving_s(otherwise: float) -> float:
    """Return the seconds that a training may take to save a checkpoint when it is stopped.

    A driver has nearly as long as Ray waits before it kills it; any other process has `otherwise`.
    """
    from tirazh.jobs.cluster.job_server import STOP_VARIABLE

    try:
        return max(otherwise, float(os.environ[STOP_VARIABLE]) - _ENDING_S) if is_driver() else otherwise
    except (KeyError, ValueError):
        return otherwise


@contextmanager
def checked_cluster(spec: AnySpec, display: Display[Any]) -> Iterator[None]:
    """Inside the block of a driver, Ray is connected and all machines can work for the job. Raises RequestError."""
    if not is_driver():
        yield
        return
    from tirazh.jobs.cluster.job_log import READY, FigureLines
    from tirazh.pipeline.execution.cluster.checks import check_cluster
    from tirazh.pipeline.execution.ray_session import ray_cluster
    from tirazh.pipeline.finetune.cluster_checks import check_for_training
    from tirazh.pipeline.finetune.spec import FinetuneSpec

    with ray_cluster(spec.address, extra_cpus=0):
        if isinstance(spec, FinetuneSpec):
            check_for_training(spec)
        else:
            check_cluster(spec, tell=display.say)
        if isinstance(display, FigureLines):
            display.print_figures({"state": READY})
        yield


def log_result(display: Display[Any], manifest: Mapping[str, Any]) -> None:
    """Print the figures of a finished output, of which this run may have made nothing."""
    from tirazh.jobs.cluster.job_log import LoggedProgress, LoggedTraining

    if isinstance(display, LoggedTraining):
        display.print_figures(dict.fromkeys(("steps", "steps_saved", "steps_total"), manifest["total_steps"]))
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
