"""The forecast that a run makes of itself while it waits for Ray, so that its manifest can say how wrong it was."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from typing import Any

from tirazh.pipeline.forecast.estimate import estimate
from tirazh.pipeline.forecast.history import completions_source, find_last_run
from tirazh.pipeline.forecast.token_sample import measure_tokens
from tirazh.pipeline.forecast.wall import wall_s
from tirazh.pipeline.forecast.workload import job_workload
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.prompts.prepare import PreparedPrompts
from tirazh.pipeline.spec import JobSpec

logger = logging.getLogger(__name__)

Forecast = Future[dict[str, Any]]


def begin_forecast(plan: Plan, spec: JobSpec, prompts: PreparedPrompts) -> Forecast:
    """Forecast a whole job in a thread of its own. Costs the run nothing: Ray starts meanwhile, in other processes."""
    found: Forecast = Future()

    def work() -> None:
        try:
            found.set_result(_forecast(plan, spec, prompts))
        except Exception as error:  # noqa: BLE001 - a forecast that fails must not end the run
            logger.debug("no forecast: %s", error)
            found.set_exception(error)

    threading.Thread(target=work, name="tirazh-forecast", daemon=True).start()
    return found


def forecast_facts(forecast: Forecast | None) -> dict[str, Any]:
    """The forecast as `judge_forecast` takes it. One that is not there yet is left out; None: none was made."""
    found: dict[str, Any] = {}
    if forecast is not None and forecast.done() and forecast.exception() is None:
        found = forecast.result()
    return {"forecast": found | {"wall_s": wall_s()}}


def _forecast(plan: Plan, spec: JobSpec, prompts: PreparedPrompts) -> dict[str, Any]:
    sample, last = measure_tokens(plan, prompts), find_last_run(plan, spec)
    mean = last.completion_tokens if last is not None else None
    workload = job_workload(plan, spec, sample, mean, source=completions_source(last))
    facts = estimate(plan, spec, workload, last_run=last)
    return {"time_s": facts.get("time_s"), "tokens": workload.tokens, "source": facts.get("time_source")}
