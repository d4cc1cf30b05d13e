"""Runs one job over rows in this process, for the command line and the Python functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tirazh.jobs import notifying
from tirazh.jobs.progress import JobProgressDisplay
from tirazh.jobs.python_settings import require_docstrings
from tirazh.jobs.tracking import tracked
from tirazh.pipeline.spec import JobSpec, StepsSpec

if TYPE_CHECKING:
    from tirazh.pipeline.execution.metrics import ProgressEvent


def run(spec: JobSpec | StepsSpec, progress: JobProgressDisplay, tools: tuple[str, ...] = ()) -> dict[str, Any]:
    """Run the job to its end and return its manifest. `tools` record the run. Raises TirazhError."""
    require_docstrings()
    from tirazh.pipeline.build import run_job
    from tirazh.pipeline.forecast.wall import counting_wall_from
    from tirazh.pipeline.model_cache.remote_model import telling_of_downloads
    from tirazh.pipeline.steps.expand import steps_of

    steps = steps_of(spec)
    with progress, telling_of_downloads(progress.say), tracked(spec, tools) as tracking:

        def show(event: ProgressEvent) -> None:
            progress.show(event)
            notifying.note_event(event)
            tracking.show(event)

        if steps is not None:
            from tirazh.pipeline.steps.run import run_steps  # imports polars, which jobs of one step do not need

            manifest = run_steps(steps, on_progress=show, tell=progress.say)
        else:
            assert isinstance(spec, JobSpec), "a job of one step has a model"
            with counting_wall_from(progress.began):
                manifest = dict(run_job(spec, on_progress=show, tell=progress.say, joins=True))
        tracking.finish(manifest)
        return manifest
