"""Runs a job of several steps: plan all, then run one after the other in one Ray session.

Every step with a model is a job of its own below the output (`run_job`), so parts, receipts and leases work as
everywhere: after a kill the same command makes only what is missing. The last pass writes the rows of the last
step to the output itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tirazh.pipeline.build import run_job
from tirazh.pipeline.execution.metrics import ProgressEvent
from tirazh.pipeline.execution.progress import OnProgress
from tirazh.pipeline.execution.ray_session import ray_cluster
from tirazh.pipeline.output.guarded import GuardedOutput
from tirazh.pipeline.output.lease import Lease, Tell, hold
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.spec import FilterSpec, JobSpec, StepsSpec, parse_replicas
from tirazh.pipeline.steps.filtering.finish import describe_filtered, finish_filtered, finished_filter
from tirazh.pipeline.steps.filtering.part import FilterConfig
from tirazh.pipeline.steps.filtering.plan import plan_filter, refuse_another_job, remove_other_parts, store_plan
from tirazh.pipeline.steps.filtering.run import make_parts, remove_judged, survey_filtered
from tirazh.pipeline.steps.filtering.source import parse
from tirazh.pipeline.steps.manifest import describe_steps
from tirazh.pipeline.steps.passed_errors import PassErrors
from tirazh.pipeline.steps.plan import PlannedStep, plan_steps
from tirazh.pipeline.storage.filesystem import Storage, keep_trying

# The manifests of the steps that are finished, by their names, in order.
_Manifests = Mapping[str, Mapping[str, Any]]


def run_steps(
    spec: StepsSpec, *, on_progress: OnProgress | None = None, tell: Tell | None = None, engine: str = "model"
) -> dict[str, Any]:
    """Run the job, or what remains of it, and return its manifest.

    `on_progress` and `tell` are those of `run_job`; an event has the name of its step. Raises RequestError before
    anything is changed, JobError if the work fails or another run holds the output. Finished parts of all steps
    are kept.
    """
    steps = plan_steps(spec)
    storage = Storage(spec.endpoint_url)
    output = OutputFiles(storage, steps[-1].output)
    refuse_other_outputs(spec, steps, storage)
    with hold(output, lease_s=spec.lease_s, tell=tell) as lease, ExitStack() as session:
        run = _Run(spec, steps, storage, lease, session, on_progress, tell, engine)
        return run.all_steps()


def refuse_other_outputs(spec: StepsSpec, steps: Sequence[PlannedStep], storage: Storage) -> None:
    """Raise OutputError if a filter step would write into the output of a job with other settings."""
    if spec.overwrite:
        return
    for step in steps:
        if step.filter is not None:
            refuse_another_job(OutputFiles(storage, step.output), step_identity(spec, step))


def step_identity(spec: StepsSpec, step: PlannedStep) -> dict[str, Any]:
    """What defines the rows of a filter step, besides those of the step before."""
    masked = list(step.rules.masked_columns) if step.rules is not None else []
    more = {"masked_columns": masked, "against_content": list(step.rules.content) if step.rules is not None else []}
    if step.is_last:
        return spec.identity() | more
    assert isinstance(step.spec, FilterSpec), "the last pass alone has no spec"
    return {"name": step.name, **step.spec.identity(), **more}


@dataclass(frozen=True, slots=True)
class _Run:
    """A run under the lease of the job's output. Ray is started when the first step needs it."""

    spec: StepsSpec
    steps: list[PlannedStep]
    storage: Storage
    lease: Lease
    session: ExitStack
    on_progress: OnProgress | None
    tell: Tell | None
    engine: str

    def all_steps(self) -> dict[str, Any]:
        manifests: dict[str, Mapping[str, Any]] = {}
        for index, step in enumerate(self.steps):
            if not keep_trying(OutputFiles(self.storage, step.output).is_complete):
                self._connect()
            if isinstance(step.spec, JobSpec):
                manifest = self._run_model(step, step.spec)
            else:
                source = OutputFiles(self.storage, self.steps[index - 1].output)
                manifest = self._run_filter(step, source, manifests)
            manifests[step.name] = manifest
        return manifest

    def _connect(self) -> None:
        """Connect Ray once for all steps that are left."""
        specs = [step.spec for step in self.steps if isinstance(step.spec, JobSpec)]
        extra = max(parse_replicas(spec.replicas)[1] * spec.tensor_parallel for spec in specs)
        self.session.enter_context(ray_cluster(self.spec.address, extra_cpus=extra, tell=self.tell))

    def _run_model(self, step: PlannedStep, spec: JobSpec) -> dict[str, Any]:
        around = partial(PassErrors, columns=step.errors) if step.errors else None
        return run_job(
            spec, on_progress=self._report(step), tell=self._tell(step), engine=self.engine, around_prompts=around
        )

    def _run_filter(self, step: PlannedStep, source: OutputFiles, before: _Manifests) -> dict[str, Any]:
        assert step.filter is not None, "a step without a model filters or selects rows"
        files = OutputFiles(self.storage, step.output)
        output = GuardedOutput(files, self.lease.token)
        manifest = list(before.values())[-1]
        first = parse(keep_trying(lambda: self.storage.read(source.part(manifest["parts"][0]["name"]))))
        plan = plan_filter(step_identity(self.spec, step), first.schema, manifest, source)
        finished, state = finished_filter(plan, output), survey_filtered(plan, files)
        if finished is not None and not state.remaining:
            return finished
        self.lease.confirm()
        self.lease.announce(plan.id)
        output = replace(output, token=self.lease.token)
        store_plan(output, plan)
        config = FilterConfig(
            output=files,
            columns=step.filter,
            rules=step.rules,
            lease=self.lease.token,
        )
        receipts, seconds = make_parts(plan, survey_filtered(plan, files), config, self._report(step))
        self.lease.settle()
        remove_other_parts(output, plan)
        facts = describe_filtered(plan, receipts) | {"seconds": round(seconds, 3)}
        done = finish_filtered(output, plan, describe_steps(self.spec, step, facts, before))
        remove_judged(plan, output)
        return done

    def _report(self, step: PlannedStep) -> OnProgress | None:
        """Pass events on with the number and the name of their step."""
        if self.on_progress is None:
            return None
        show: Callable[[ProgressEvent], None] = self.on_progress
        text = f"step {step.number} of {len(self.steps)}: {step.name}"
        return lambda event: show(replace(event, step=text))

    def _tell(self, step: PlannedStep) -> Tell | None:
        if self.tell is None:
            return None
        tell = self.tell
        return lambda text: tell(f"{step.name}: {text}")
