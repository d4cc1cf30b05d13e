"""Runs or plans one job over rows in this process, for the command line and the Python functions."""

from __future__ import annotations

from typing import Any

from tirazh.jobs.progress import JobProgressDisplay
from tirazh.jobs.python_settings import require_docstrings
from tirazh.pipeline.spec import JobSpec, StepsSpec


def run(spec: JobSpec | StepsSpec, progress: JobProgressDisplay) -> dict[str, Any]:
    """Run the job to its end and return its manifest. Raises TirazhError."""
    require_docstrings()
    from tirazh.pipeline.build import run_job
    from tirazh.pipeline.steps.expand import steps_of
    from tirazh.pipeline.steps.run import run_steps

    steps = steps_of(spec)
    with progress:
        if steps is not None:
            return run_steps(steps, on_progress=progress.show, tell=progress.say)
        assert isinstance(spec, JobSpec), "a job of one step has a model"
        return dict(run_job(spec, on_progress=progress.show, tell=progress.say))


def plan_facts(spec: JobSpec | StepsSpec) -> dict[str, Any]:
    """Plan the job and look at its output, without starting anything. Raises RequestError."""
    from tirazh.pipeline.dry_run import dry_run
    from tirazh.pipeline.estimate import estimate
    from tirazh.pipeline.plan import plan_job
    from tirazh.pipeline.steps.dry_run import dry_run_steps
    from tirazh.pipeline.steps.expand import steps_of

    steps = steps_of(spec)
    if steps is not None:
        return dry_run_steps(steps)
    assert isinstance(spec, JobSpec), "a job of one step has a model"
    plan = plan_job(spec)
    return plan.summary() | estimate(plan, spec) | dry_run(spec, plan)
