"""The steps that a job really runs: quality settings of a generate step become a filter step behind it.

A filter that compares texts with their prompts needs the prompts: the generate step then writes them, and the last
pass leaves them out unless the user asked for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from tirazh.errors import RequestError
from tirazh.pipeline import schema
from tirazh.pipeline.quality.rules import parse_filters
from tirazh.pipeline.spec import Accepted, FilterSpec, GenerateSpec, JobSpec, Step, StepsSpec
from tirazh.pipeline.spec.filter import QUALITY_SETTINGS
from tirazh.pipeline.steps.directories import place_steps

GENERATE, FILTER = "generate", "filter"
_NEEDS_PROMPT = "max_prompt_copy"


@dataclass(frozen=True, slots=True)
class ExpandedSteps:
    """The steps with their directories, and the columns that exist for filters alone."""

    steps: tuple[Step, ...]
    hidden: tuple[str, ...]


def expand(spec: StepsSpec) -> ExpandedSteps:
    """Return the steps that a job runs. Raises RequestError for settings that only a job of one step has."""
    for step in spec.steps:
        if isinstance(step.spec, JobSpec):
            _refuse_adding(step.spec)
    steps, hidden = _with_prompts(_with_filters(spec.steps))
    return ExpandedSteps(place_steps(steps, spec.output), hidden)


def steps_of(spec: JobSpec | StepsSpec) -> StepsSpec | None:
    """The job of several steps that a spec means; None for one that is a single step with a model."""
    if isinstance(spec, StepsSpec):
        return spec
    if not (isinstance(spec, GenerateSpec) and _quality(spec)):
        return None
    _refuse_adding(spec)
    return StepsSpec(
        output=spec.output,
        steps=(Step(GENERATE, spec),),
        address=spec.address,
        endpoint_url=spec.endpoint_url,
        lease_s=spec.lease_s,
        overwrite=spec.overwrite,
    )


def _refuse_adding(spec: JobSpec) -> None:
    if spec.append or spec.retry_failed:
        raise RequestError(
            "--append and --retry-failed are for jobs of one step, and this job has several (filters, dedup and "
            "accepted are steps): leave them out, or run the step with a model as a job of its own"
        )


def _with_filters(steps: Sequence[Step]) -> list[Step]:
    split: list[Step] = []
    for step in steps:
        chosen = _quality(step.spec) if isinstance(step.spec, GenerateSpec) else {}
        if isinstance(step.spec, GenerateSpec) and chosen:
            accepted = _accepted(step.spec)
            rows: dict[str, Any] = {} if accepted is None else {"accepted": None, "max_attempts": 1, "per_cell": 1}
            split.append(Step(step.name, replace(step.spec, **_defaults(), **rows)))
            split.append(Step(f"{step.name}_{FILTER}", FilterSpec(**chosen), accepted))
        else:
            split.append(step)
    return split


def _with_prompts(steps: list[Step]) -> tuple[list[Step], tuple[str, ...]]:
    """Let generate steps keep the prompts that a later filter needs. Returns the names of these columns, too."""
    hidden: dict[str, None] = {}
    last: int | None = None
    for index, step in enumerate(list(steps)):
        if isinstance(step.spec, GenerateSpec):
            last = index
        rules = parse_filters(step.spec.filters) if isinstance(step.spec, FilterSpec) else ()
        if last is None or not any(rule.name == _NEEDS_PROMPT for rule in rules):
            continue
        generate = steps[last].spec
        assert isinstance(generate, GenerateSpec), "the index is that of a generate step"
        if schema.PROMPT not in generate.keep:
            steps[last] = replace(steps[last], spec=replace(generate, keep=(*generate.keep, schema.PROMPT)))
            hidden[generate.prefix + schema.PROMPT] = None
    return steps, tuple(hidden)


def _accepted(spec: GenerateSpec) -> Accepted | None:
    if spec.accepted is None:
        return None
    return Accepted(spec.accepted, spec.max_attempts)


def _quality(spec: GenerateSpec) -> dict[str, Any]:
    """The quality settings of a generate job, for its filter step; empty if nothing is asked for."""
    values = {name: getattr(spec, name) for name in QUALITY_SETTINGS}
    is_asked = spec.accepted is not None or any(values[name] for name in QUALITY_SETTINGS if name != "dropped")
    return values if is_asked else {}


def _defaults() -> dict[str, Any]:
    return {each.name: each.default for each in fields(GenerateSpec) if each.name in QUALITY_SETTINGS}
