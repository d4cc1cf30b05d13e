"""Runs one job over rows in this process, for the command line and the Python functions."""

from __future__ import annotations

from typing import Any

from tirazh.jobs.progress import JobProgressDisplay
from tirazh.jobs.python_settings import require_docstrings
from tirazh.pipeline.spec import JobSpec, StepsSpec


def run(spec: JobSpec | StepsSpec, progress: JobProgressDisplay) -> dict[str, Any]:
    """Run the job to its end and return its manifest. Raises TirazhError."""
    require_docstrings()
    from tirazh.pipeline.build import run_job
    from tirazh.pipeline.forecast.wall import counting_wall_from
    from tirazh.pipeline.model_cache.remote_model import telling_of_downloads
    from tirazh.pipeline.steps.expand import steps_of
    from tirazh.pipeline.steps.run import run_steps

    steps = steps_of(spec)
    with progress, telling_of_downloads(progress.say):
        if steps is not None:
            return run_steps(steps, on_progress=progress.show, tell=progress.say)
        assert isinstance(spec, JobSpec), "a job of one step has a model"
        with counting_wall_from(progress.began):
            return dict(run_job(spec, on_progress=progress.show, tell=progress.say, joins=True))
