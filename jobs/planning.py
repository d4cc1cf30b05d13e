"""What a job over rows would do, as facts for the command line and the Python functions."""

from __future__ import annotations

from typing import Any

from tirazh.errors import OutputError, RequestError
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.spec import JobSpec, StepsSpec

# Rows of a probe: enough for the mean length of completions, few enough for some seconds.
PROBE_ROWS = 16
# What a probe measures better than a sample of prompts.
_PROBED = (
    *("estimated_tokens", "completion_tokens", "mean_completion_tokens", "tokens_source", "tokens_per_s"),
    *("rank_cache_bytes", "machine_memory_bytes", "time_s", "time_source", "cost"),
)


def plan_facts(
    spec: JobSpec | StepsSpec, *, probe: bool = False, price_per_hour: float | None = None
) -> dict[str, Any]:
    """Plan the job and look at its output. Starts nothing, but for a `probe`, which makes some rows in this process.

    `price_per_hour` is that of what one replica runs on. Raises RequestError.
    """
    from tirazh.pipeline.forecast.describe import describe_job
    from tirazh.pipeline.steps.dry_run import dry_run_steps
    from tirazh.pipeline.steps.expand import steps_of

    if price_per_hour is not None and not 0 <= price_per_hour < float("inf"):
        raise RequestError(f"--price-per-hour must be a price of at least 0, not {price_per_hour:g}")
    steps = steps_of(spec)
    if steps is not None:
        if probe or price_per_hour is not None:
            raise RequestError("a job of several steps has no forecast; plan its steps as jobs of their own")
        return dry_run_steps(steps)
    assert isinstance(spec, JobSpec), "a job of one step has a model"
    facts = describe_job(spec, price_per_hour=price_per_hour)
    return facts | _probe(spec, price_per_hour) if probe else facts


def training_facts(spec: FinetuneSpec, *, probe: bool = False, refuses: bool = False) -> dict[str, Any]:
    """Plan a training as `plan_facts` plans a job over rows; a `probe` makes some steps in this process.

    With `refuses` a disk that is too small is an error, as it is for the run. Raises RequestError.
    """
    from tirazh.pipeline.finetune.forecast.describe import describe_training

    facts = describe_training(spec)
    if refuses and facts["problem"] is not None:
        raise OutputError(facts["problem"])
    if not probe:
        return facts
    from tirazh.pipeline.finetune.forecast.probe import probe_training

    return facts | probe_training(spec, facts)


def _probe(spec: JobSpec, price_per_hour: float | None) -> dict[str, Any]:
    from tirazh.pipeline.preview.run import preview_job

    forecast = preview_job(spec, rows=PROBE_ROWS, price_per_hour=price_per_hour)["forecast"]
    return {name: forecast[name] for name in _PROBED if name in forecast}
