"""What a job would do, in figures: for `tirazh plan`, `--dry-run` and `tirazh.plan`. Starts nothing, writes nothing."""

from __future__ import annotations

from typing import Any

from tirazh.pipeline.forecast.dry_run import dry_run
from tirazh.pipeline.forecast.estimate import cost, estimate
from tirazh.pipeline.forecast.history import LastRun, completions_source, find_last_run
from tirazh.pipeline.forecast.token_sample import TokenSample, measure_tokens
from tirazh.pipeline.forecast.workload import Workload, job_workload
from tirazh.pipeline.plan import Plan, plan_job
from tirazh.pipeline.prompt_setup import set_up_prompts
from tirazh.pipeline.spec import JobSpec


def describe_job(spec: JobSpec, *, price_per_hour: float | None = None) -> dict[str, Any]:
    """Plan the job, measure its prompts on a sample of rows, and look at its output.

    `price_per_hour` is that of what one replica runs on; with it the facts have `cost`, [low, high]. Raises
    RequestError or one of its subclasses where the run would before it starts.
    """
    plan = plan_job(spec)
    prompts = set_up_prompts(spec, plan)
    if not plan.rows:
        found = dry_run(spec, plan)
        note = "the input has no rows: the output will be a table without rows"
        return plan.summary() | found | {"notes": [*found["notes"], note]}
    sample, last = measure_tokens(plan, prompts), find_last_run(plan, spec)
    mean = last.completion_tokens if last is not None else None
    workload = job_workload(plan, spec, sample, mean, source=completions_source(last))
    found = dry_run(spec, plan)
    facts = plan.summary() | token_facts(workload, sample) | found
    facts |= estimate(plan, spec, workload, last_run=last)
    if found["rows_to_make"] is not None and found["rows_to_make"] < plan.output_rows:
        facts |= _time_of_the_rest(plan, spec, workload, last, found["rows_to_make"])
    if (few_shot := prompts.few_shot.summary()) is not None:
        facts["few_shot"] = few_shot
    if price_per_hour is not None and facts.get("time_s") is not None:
        facts["cost"] = cost(plan, spec, facts["time_s"], price_per_hour)
    return facts | {"notes": [*found["notes"], *prompts.few_shot.notes, *sample_notes(sample, spec)]}


def _time_of_the_rest(plan: Plan, spec: JobSpec, workload: Workload, last: LastRun | None, rows: int) -> dict[str, Any]:
    """The time, and the tokens, of the rows that are still to be made; no time where there is none."""
    rest = workload.part(rows / plan.output_rows)
    if not rows:
        return {"time_s": None, "time_source": None, "tokens_to_make": 0}
    found = estimate(plan, spec, rest, last_run=last)
    return {name: found[name] for name in ("time_s", "time_source") if name in found} | {"tokens_to_make": rest.tokens}


def token_facts(workload: Workload, sample: TokenSample) -> dict[str, Any]:
    """The job's tokens: totals over all sequences, and means of one sequence."""
    return {
        "estimated_tokens": workload.tokens,
        "prompt_tokens": workload.prompt_tokens,
        "completion_tokens": workload.completion_tokens,
        "mean_prompt_tokens": round(sample.prompt_tokens, 1),
        "mean_shared_prompt_tokens": round(sample.shared_tokens, 1),
        "mean_completion_tokens": round(workload.completion_tokens / max(1, workload.sequences), 1),
        "sampled_rows": sample.rows,
        "cut_share": round(sample.cut, 4),
        "error_share": round(sample.failed, 4),
        "tokens_source": workload.source,
    }


def sample_notes(sample: TokenSample, spec: JobSpec) -> list[str]:
    """Sentences about prompts that are cut, and about rows that will have an error."""
    notes = []
    if sample.cut:
        side = "beginning" if spec.chosen_truncate == "left" else "end"
        notes.append(f"about {sample.cut:.1%} of the prompts are too long and lose the {side} of their text")
    if sample.short_of_shots:
        notes.append(f"about {sample.short_of_shots:.1%} of the rows have fewer examples than --shots: no more fit")
    if sample.failed:
        of_them = f", {sample.too_long:.1%} because the prompt is too long" if sample.too_long else ""
        notes.append(f"about {sample.failed:.1%} of the rows will have an error{of_them}; the first is: {sample.error}")
    return notes
