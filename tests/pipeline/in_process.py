"""A whole generate job in this process, without Ray: plan, prompts, the engine of a replica, and the output table."""

from __future__ import annotations

import functools
from typing import Any

import pyarrow as pa

from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.model_engine import build_engine, build_runner
from tirazh.actors.progress import ProgressCounter
from tirazh.actors.rendezvous import RankPlace
from tirazh.model.engine.batch_engine import BatchEngine
from tirazh.model.engine.runner import ModelRunner
from tirazh.model.requests import EngineJob
from tirazh.model.tokenizer import load_tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.columns import added_columns
from tirazh.pipeline.constraints.fields import fields_of
from tirazh.pipeline.constraints.settings import job_constraint
from tirazh.pipeline.execution.infer import InferConfig, append_results, make_requests
from tirazh.pipeline.input.read import read_part
from tirazh.pipeline.output.assemble import OutputLayout, assemble
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.prompt_setup import set_up_prompts
from tirazh.pipeline.prompts.encode import PromptStep
from tirazh.pipeline.spec import GenerateSpec


def run_in_process(spec: GenerateSpec) -> pa.Table:
    """Return the output of a job of the embedded model, all parts in one table."""
    plan = plan_job(spec)
    prompts = set_up_prompts(spec, plan)
    unused: Any = None
    config = InferConfig(
        replica=unused,
        sampling=spec.sampling,
        samples=spec.samples,
        overrides=plan.overrides,
        calibration_ids=(),
        metrics=unused,
        constraint=job_constraint(spec),
        schema_column=spec.schema_column,
    )
    layout = OutputLayout(
        columns=plan.schema,
        added=added_columns(spec),
        labels=(),
        samples=spec.samples,
        abstain_below=0.0,
        fields=fields_of(spec),
    )
    engine = embedded_engine(prompts.engine_job, slots=spec.slots or 64, seq_length=plan.seq_length)
    tables = []
    for part in plan.parts:
        table = PromptStep(prompts.config)(read_part(part, plan.job.storage, plan.schema))
        errors = table.column(schema.ROW_ERROR).to_pylist()
        good = [row for row, error in enumerate(errors) if error is None]
        ids = engine.add(make_requests(table.take(good), config))
        found: dict[int, Any] = {}
        while engine.has_work:
            found.update(engine.step())
        table = append_results(table, good, [found[id] for id in ids], config, None)
        tables.append(assemble(table, layout, load_tokenizer(prompts.config.tokenizer_dir)))
    return pa.concat_tables(tables)


def embedded_engine(job: EngineJob, *, slots: int, seq_length: int) -> BatchEngine:
    """The engine of a replica with one thread."""
    config = ReplicaConfig(model="embedded", jobs=(job,), slots=slots, seq_length=seq_length)
    runner = _runner(job, slots, seq_length)
    return build_engine(config, runner, runner.execute)


@functools.lru_cache(maxsize=1)
def _runner(job: EngineJob, slots: int, seq_length: int) -> ModelRunner:
    config = ReplicaConfig(model="embedded", jobs=(job,), slots=slots, seq_length=seq_length)
    return build_runner(
        config, RankPlace(rank=0, world_size=1, local_rank=0, local_size=1, threads=1), ProgressCounter()
    )
