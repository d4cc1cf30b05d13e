"""Prepares a planned job's prompts: loads its tokenizer, and does what `prompts/prepare.py` says. Needs no Ray."""

from __future__ import annotations

from dataclasses import replace

from tirazh.model.tokenizer import load_tokenizer
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.prompts.label_prompts import sample_prompts
from tirazh.pipeline.prompts.prepare import PreparedPrompts, prepare_prompts
from tirazh.pipeline.spec import ClassifySpec, JobSpec


def set_up_prompts(spec: JobSpec, plan: Plan) -> PreparedPrompts:
    """Load the tokenizer and prepare the prompts. `plan` is one that `plan_job` returned."""
    directory = plan.job.model.tokenizer_dir
    prompts = prepare_prompts(
        _scored(spec, plan),
        load_tokenizer(directory, plan.job.model_directory),
        plan.job.source,
        tokenizer_dir=plan.job.tokenizer_name,
        seq_length=plan.seq_length,
        examples=plan.job.examples,
        overrides=plan.overrides,
    )
    prompts = replace(prompts, calibration=plan.job.calibration)
    if plan.job.sample is None or prompts.labels is None:
        return prompts
    labels = replace(prompts.labels, prior_prompts=sample_prompts(prompts.config, plan.job.sample))
    return replace(prompts, labels=labels)


def _scored(spec: JobSpec, plan: Plan) -> JobSpec:
    """The spec of the scores. A calibration file is applied when rows are written, to scores such as those that it was
    fitted on: with the same calibration without labelled rows."""
    if not isinstance(spec, ClassifySpec) or plan.job.calibration is None:
        return spec
    return replace(spec, calibrate=plan.job.calibration.base, target_error=None)
