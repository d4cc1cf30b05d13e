"""The filter step behind a generate job that has quality settings, which are about its completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from tirazh.pipeline.spec import FilterSpec, GenerateSpec, JobSpec, Step, StepsSpec
from tirazh.pipeline.spec.filter import QUALITY_SETTINGS
from tirazh.pipeline.steps.directories import place_steps

GENERATE, FILTER = "generate", "filter"


def with_filters(steps: Sequence[Step]) -> list[Step]:
    """Put a filter step behind every generate step with quality settings; the step itself has them no longer."""
    split: list[Step] = []
    for step in steps:
        chosen = _quality(step.spec) if isinstance(step.spec, GenerateSpec) else {}
        if isinstance(step.spec, GenerateSpec) and chosen:
            split.append(Step(step.name, replace(step.spec, **_defaults())))
            split.append(Step(f"{step.name}_{FILTER}", FilterSpec(**chosen)))
        else:
            split.append(step)
    return split


def steps_of(spec: JobSpec | StepsSpec) -> StepsSpec | None:
    """The job of several steps that a spec means; None for one that is a single step with a model."""
    if isinstance(spec, StepsSpec):
        return spec
    steps = with_filters([Step(GENERATE, spec)])
    if len(steps) == 1:
        return None
    steps[1] = replace(steps[1], name=FILTER)
    return StepsSpec(
        output=spec.output,
        steps=place_steps(steps, spec.output),
        address=spec.address,
        endpoint_url=spec.endpoint_url,
        lease_s=spec.lease_s,
        overwrite=spec.overwrite,
    )


def _quality(spec: GenerateSpec) -> dict[str, Any]:
    """The quality settings of a generate job, for its filter step; empty if nothing is asked for."""
    values = {name: getattr(spec, name) for name in QUALITY_SETTINGS}
    return values if any(values[name] for name in QUALITY_SETTINGS if name != "dropped") else {}


def _defaults() -> dict[str, Any]:
    return {each.name: each.default for each in fields(GenerateSpec) if each.name in QUALITY_SETTINGS}
