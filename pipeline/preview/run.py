"""Previews a job: makes some of its rows in this process, and forecasts the tokens and the time of all of them.

The rows are those that the job writes, to the last bit: they go through the job's own steps, with its template, its
seeds and its dtype. Starts no Ray and writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import pyarrow as pa

from tirazh.actors.cores import usable_cores
from tirazh.actors.local_replica import LocalReplica, local_device, local_dtype, local_replica
from tirazh.errors import OutputError, RequestError
from tirazh.model.requests import Request
from tirazh.pipeline import schema
from tirazh.pipeline.execution.infer import InferConfig
from tirazh.pipeline.forecast.describe import sample_notes, token_facts
from tirazh.pipeline.forecast.estimate import MeasuredSpeed, cost, estimate, weight_bytes
from tirazh.pipeline.forecast.token_sample import TokenSample, measure_tokens
from tirazh.pipeline.forecast.workload import Workload, job_workload
from tirazh.pipeline.job_run import JobRun
from tirazh.pipeline.output.leases.lease import Tell
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import read_plan
from tirazh.pipeline.plan import Plan, plan_job, with_dtype
from tirazh.pipeline.preview.head import preview_head
from tirazh.pipeline.preview.rows import MAX_COUNTED_ROWS, ChosenRows, choose_rows, make_rows, requests_of
from tirazh.pipeline.preview.speed import measure_speed
from tirazh.pipeline.prompt_setup import set_up_prompts
from tirazh.pipeline.spec import GenerateSpec, JobSpec
from tirazh.pipeline.unused_settings import unused_settings

MAX_ROWS = 1_000


OnRows = Callable[[dict[str, Any]], object]
Judge = Callable[[pa.Table], pa.Table]


def preview_job(
    spec: JobSpec,
    *,
    rows: int = 8,
    tell: Tell | None = None,
    on_rows: OnRows | None = None,
    judge: Judge | None = None,
    engine: str = "model",
    price_per_hour: float | None = None,
) -> dict[str, Any]:
    """Make `rows` rows spread over the input and forecast the job.

    Returns `rows`, a list with the number in the input (`row`, from 0), the file, the prompt and the output rows
    of each; `added_columns`, the names of the columns that the job adds; `forecast`, the figures of `tirazh plan` with
    the measured speed; and `notes`. `tell` receives sentences about what is being done, `on_rows` the result without
    the forecast as soon as the rows are made. `judge` adds columns to the output rows. `engine` is
    `ReplicaConfig.engine`, `price_per_hour` that of `describe_job`. Raises RequestError where the job would, and for a
    model that does not fit in memory.
    """
    if not 1 <= rows <= MAX_ROWS:
        raise RequestError(f"a preview has between 1 and {MAX_ROWS:,} rows, not {rows}")
    say = tell or (lambda text: None)
    plan = plan_job(spec)
    if not plan.rows:
        raise RequestError("the input has no rows, so there is nothing to preview")
    run = _job_run(spec, plan, engine)
    say(f"reading {min(rows, plan.rows):,} of {plan.rows:,} rows")
    chosen = choose_rows(plan, run.prompts.config, run.output, rows)
    say(f"loading the model {spec.model}")
    run = replace(run, device=local_device(spec.device))
    run = replace(run, plan=with_dtype(plan, _dtype(plan, run.output, run.device)))
    config = replace(run.replica_config(threads=spec.threads or usable_cores()), tensor_parallel=1)
    infer = run.infer_config(None, config)
    requests = requests_of(chosen, infer)
    with local_replica(config, needed_bytes=weight_bytes(run.plan, spec)) as replica:
        infer = replace(infer, head=preview_head(run, infer, replica, say))
        say(f"making {len(chosen.numbers):,} rows")
        began = time.monotonic()
        result = _make(run, chosen, requests, replica, infer, judge)
        took_s = time.monotonic() - began
        if on_rows is not None:
            on_rows(result)
        say("measuring the speed")
        speed = _speed(replica, requests, run, config.slots, took_s)
    sample = measure_tokens(plan, run.prompts)
    mean = _mean_completion(result["rows"], spec)
    workload = job_workload(run.plan, spec, sample, mean, source="completions as in this preview")
    forecast = _forecast(run.plan, spec, workload, sample, speed)
    if price_per_hour is not None and "time_s" in forecast:
        forecast["cost"] = cost(run.plan, spec, forecast["time_s"], price_per_hour)
    return result | {
        "forecast": forecast,
        "notes": [*run.prompts.few_shot.notes, *_notes(run.plan, spec, chosen, sample)],
    }


def _make(
    run: JobRun,
    chosen: ChosenRows,
    requests: Sequence[Request],
    replica: LocalReplica,
    infer: InferConfig,
    judge: Judge | None,
) -> dict[str, Any]:
    layout = run.write_config().layout
    made = make_rows(run.plan, chosen, requests, replica, infer, layout, run.prompts.config.tokenizer_dir)
    added = list(layout.added.names)
    if judge is not None:
        for row in made:
            judged = judge(pa.Table.from_pylist(row["output"], schema=layout.schema))
            row["output"] = judged.to_pylist()
            added = [name for name in judged.column_names if name not in layout.columns.names]
    return {"kind": run.spec.kind, "rows": made, "added_columns": added, "input_rows": run.plan.rows}


def _job_run(spec: JobSpec, plan: Plan, engine: str) -> JobRun:
    """The job's steps, for a run that writes nothing; device and dtype are not decided yet."""
    return JobRun(
        spec=spec,
        plan=plan,
        prompts=set_up_prompts(spec, plan),
        output=OutputFiles(plan.job.storage, plan.job.output),
        device="cpu",
        engine=engine,
        lease=None,
        earlier_errors=0,
        on_progress=None,
        tell=None,
    )


def _dtype(plan: Plan, output: OutputFiles, device: str) -> Any:
    """The dtype of the job: the one that is set, the one that the stored plan of the same job has, or the fastest."""
    if plan.dtype != "auto":
        return plan.dtype
    try:
        stored = read_plan(output)
    except OutputError:
        stored = None
    if stored is not None and stored.fingerprint == plan.fingerprint and stored.dtype != "auto":
        return stored.dtype
    return local_dtype(device)


def _speed(
    replica: LocalReplica, requests: Sequence[Request], run: JobRun, slots: int, took_s: float
) -> MeasuredSpeed | None:
    """The speed of the replica; None if no row of the preview has a prompt."""
    if not requests:
        return None
    samples = run.spec.samples if isinstance(run.spec, GenerateSpec) else 1
    return measure_speed(
        replica,
        requests,
        sequences=min(slots, run.plan.rows * samples),
        num_shared=len(run.prompts.engine_job.prefix_token_ids),
        took_s=took_s,
    )


def _mean_completion(made: Sequence[dict[str, Any]], spec: JobSpec) -> float | None:
    """The mean tokens of the sequences that were made; None for a job without completions."""
    if not isinstance(spec, GenerateSpec):
        return None
    name = spec.prefix + schema.COMPLETION_TOKENS
    totals = [sum(row.get(name) or 0 for row in each["output"]) for each in made if each[schema.PROMPT] is not None]
    return fmean(totals) / spec.samples if totals else None


def _forecast(
    plan: Plan, spec: JobSpec, workload: Workload, sample: TokenSample, speed: MeasuredSpeed | None
) -> dict[str, Any]:
    facts = token_facts(workload, sample) | estimate(plan, spec, workload, speed=speed)
    if speed is not None:
        work_s = workload.own_tokens * speed.prompt_token_s + workload.completion_tokens * speed.new_token_s
        facts["tokens_per_s"] = round(workload.tokens / work_s, 1) if work_s else None
    return plan.summary() | facts


def _notes(plan: Plan, spec: JobSpec, chosen: ChosenRows, sample: TokenSample) -> list[str]:
    notes = [*plan.passed_over, *plan.unified, *unused_settings(spec, plan), *sample_notes(sample, spec)]
    if not chosen.is_counted:
        notes.append(
            f"the input has more than {MAX_COUNTED_ROWS:,} rows, so it was not read as a whole: a row whose prompt "
            "also occurs before it in the input gets other random numbers in the job"
        )
    if spec.tensor_parallel > 1 and spec.invariant is None:
        notes.append(
            "the preview has one rank; with --tensor-parallel the logits differ in their last bits, and now and then a "
            "token differs"
        )
    if spec.address is not None and spec.dtype == "auto":
        notes.append(f"the cluster may choose another dtype than {plan.dtype}; set --dtype to have the same rows")
    return notes
