"""What a run of several steps would do, for `--dry-run` and `tirazh plan`. Changes nothing."""

from __future__ import annotations

from typing import Any

from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import read_plan
from tirazh.pipeline.spec import JobSpec, StepsSpec
from tirazh.pipeline.steps.plan import PlannedStep, plan_steps
from tirazh.pipeline.steps.run import refuse_other_outputs
from tirazh.pipeline.storage.filesystem import Storage
from tirazh.pipeline.unused_settings import unused_settings


def dry_run_steps(spec: StepsSpec) -> dict[str, Any]:
    """Return the steps, the columns of the output and what is finished. Raises RequestError where the run would."""
    steps = plan_steps(spec)
    storage = Storage(spec.endpoint_url)
    refuse_other_outputs(spec, steps, storage)
    first = steps[0].plan
    assert first is not None, "the first step has a model"
    complete = [OutputFiles(storage, step.output).is_complete() for step in steps]
    state = "complete" if all(complete) else "unfinished" if any(_has_plan(storage, step) for step in steps) else "new"
    would = {
        "complete": "do nothing: the output is complete, unless a part is missing or damaged",
        "unfinished": f"resume: {sum(complete)} of {len(steps)} steps are complete",
        "new": "start a new output",
    }
    assert isinstance(steps[0].spec, JobSpec), "the first step has a model"
    return {
        "kind": spec.kind,
        "files": len(first.files),
        "rows": first.rows,
        "steps": [_text(step, done) for step, done in zip(steps, complete, strict=True)],
        "columns": steps[-1].columns.names,
        "output": spec.output,
        "output_state": state,
        "would": would[state],
        "fingerprint": spec.fingerprint(),
        "notes": [*first.passed_over, *first.unified, *unused_settings(steps[0].spec, first)],
    }


def _has_plan(storage: Storage, step: PlannedStep) -> bool:
    return read_plan(OutputFiles(storage, step.output)) is not None


def _text(step: PlannedStep, is_complete: bool) -> str:
    kind = step.spec.kind if step.spec is not None else "columns"
    return f"{step.name} ({kind}{', complete' if is_complete else ''})"
