"""Prepares a planned job's prompts: loads its tokenizer, and does what `prompts/prepare.py` says. Needs no Ray."""

from __future__ import annotations

from dataclasses import replace

from tirazh.model.checkpoints.directory import resolve_model
from tirazh.model.tokenizer import load_tokenizer
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.prompts.label_prompts import sample_prompts
from tirazh.pipeline.prompts.prepare import PreparedPrompts, prepare_prompts
from tirazh.pipeline.spec import JobSpec


def set_up_prompts(spec: JobSpec, plan: Plan) -> PreparedPrompts:
    """Load the tokenizer and prepare the prompts. `plan` is one that `plan_job` returned."""
    directory = plan.job.model.tokenizer_dir
    prompts = prepare_prompts(
        spec,
        load_tokenizer(directory, resolve_model(spec.model)),
        plan.job.source,
        tokenizer_dir=directory or "",
        seq_length=plan.seq_length,
        examples=plan.job.examples,
        overrides=plan.overrides,
    )
    if plan.job.sample is None or prompts.labels is None:
        return prompts
    labels = replace(prompts.labels, prior_prompts=sample_prompts(prompts.config, plan.job.sample))
    return replace(prompts, labels=labels)
