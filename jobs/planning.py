"""What a job over rows would do, as facts for the command line and the Python functions."""

from __future__ import annotations

from typing import Any

from tirazh.pipeline.spec import JobSpec, StepsSpec


def plan_facts(spec: JobSpec | StepsSpec) -> dict[str, Any]:
    """Plan the job and look at its output, without starting anything. Raises RequestError."""
    from tirazh.pipeline.forecast.describe import describe_job
    from tirazh.pipeline.steps.dry_run import dry_run_steps
    from tirazh.pipeline.steps.expand import steps_of

    steps = steps_of(spec)
    if steps is not None:
        return dry_run_steps(steps)
    assert isinstance(spec, JobSpec), "a job of one step has a model"
    return describe_job(spec)
