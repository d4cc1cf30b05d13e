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

from tirazh.errors import JobError, OutputError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.crossing.crossing import Crossing
from tirazh.pipeline.execution.metrics import ProgressEvent
from tirazh.pipeline.execution.progress import OnProgress
from tirazh.pipeline.execution.ray_session import ray_cluster
from tirazh.pipeline.execution.shared_replicas import shared_replicas, sharing_replicas
from tirazh.pipeline.history.recorder import current_run, failing_early, recording
from tirazh.pipeline.output.guarded import GuardedOutput
from tirazh.pipeline.output.leases.lease import Lease, Tell, hold
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import read_plan
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.spec import Accepted, FilterSpec, GenerateSpec, JobSpec, StepsSpec, parse_replicas
from tirazh.pipeline.steps.accepted.cells import write_cells
from tirazh.pipeline.steps.accepted.final import choose_cells_per_part, describe_cells, items_of, plan_final, shortage
from tirazh.pipeline.steps.accepted.run import Rounds
from tirazh.pipeline.steps.directories import name_of_round
from tirazh.pipeline.steps.filtering.finish import describe_filtered, finish_filtered, finished_filter
from tirazh.pipeline.steps.filtering.part import FilterConfig
from tirazh.pipeline.steps.filtering.plan import plan_filter, refuse_another_job, remove_other_parts, store_plan
from tirazh.pipeline.steps.filtering.run import (
    FilterState,
    MakeParts,
    part_writer,
    remove_judged,
    run_parts,
    survey_filtered,
)
from tirazh.pipeline.steps.filtering.source import parse, source_files
from tirazh.pipeline.steps.manifest import describe_steps
from tirazh.pipeline.steps.passed_errors import PassErrors
from tirazh.pipeline.steps.plan import PlannedStep, plan_steps
from tirazh.pipeline.storage.filesystem import Storage, keep_trying
from tirazh.pipeline.tracking.prometheus import labelling

# The manifests of the steps that are finished, by their names, in order.
_Manifests = Mapping[str, Mapping[str, Any]]
_Writer = Callable[[FilterState, FilterConfig], MakeParts]


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
    with (
        hold(output, lease_s=spec.lease_s, tell=tell) as lease,
        recording(output, lease, kind=spec.kind, collects=True) as recorded,
        ExitStack() as session,
        failing_early(),
    ):
        # One name for all plans of the job: writes of an earlier run of the same job do no harm.
        lease.announce(spec.fingerprint())
        recorded.begin(spec.fingerprint())
        manifest = _Run(spec, steps, storage, lease, session, on_progress, tell, engine).all_steps()
        recorded.finish(manifest)
        return manifest


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


def _stored_plan(output: OutputFiles) -> Plan | None:
    try:
        return read_plan(output)
    except OutputError:  # --overwrite replaces it
        return None


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
            if step.accepted is not None and step.filter is None:
                continue  # its filter makes its rounds
            if not keep_trying(OutputFiles(self.storage, step.output).is_complete):
                self._connect()
            if step.accepted is not None:
                manifest = self._run_accepted(self.steps[index - 1], step, step.accepted, manifests)
            elif isinstance(step.spec, JobSpec):
                manifest = self._run_model(step, step.spec)
            else:
                source = OutputFiles(self.storage, self.steps[index - 1].output)
                manifest = self._run_filter(step, source, manifests)
            manifests[step.name] = manifest
        self._refuse_shortage(manifests)
        return manifest

    def _refuse_shortage(self, manifests: Mapping[str, Any]) -> None:
        """Raise JobError if cells have fewer accepted rows than wanted; everything is written."""
        for step in self.steps:
            if step.accepted is not None and step.name in manifests:
                reason = shortage(manifests[step.name], step.accepted, OutputFiles(self.storage, self.steps[-1].output))
                if reason is not None:
                    raise JobError(reason)

    def _run_accepted(
        self, generate: PlannedStep, step: PlannedStep, accepted: Accepted, manifests: dict[str, Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Make rounds of attempts, and write the accepted rows of every cell."""
        assert isinstance(generate.spec, GenerateSpec) and generate.plan is not None and step.rules is not None  # noqa: PT018
        assert step.filter is not None and generate.plan.crossing is not None, "attempts are rows of a crossing"  # noqa: PT018
        identity = step_identity(self.spec, step)
        rounds = Rounds(
            spec=generate.spec,
            plan=generate.plan,
            crossing=generate.plan.crossing,
            accepted=accepted,
            rules=step.rules,
            columns=step.filter,
            identity=identity,
            storage=self.storage,
            lease=self.lease.token,
            run_round=partial(self._run_round, generate),
        )
        files = OutputFiles(self.storage, step.output)
        output = GuardedOutput(files, self.lease.token)
        per_part = choose_cells_per_part(_stored_plan(files), accepted, generate.spec.part_rows)
        existing = rounds.existing()
        if existing:
            final = plan_final(identity, existing, accepted, per_part)
            finished = finished_filter(final.plan, output)
            is_enough = finished is not None and accepted.max_attempts <= finished["max_attempts"]
            if finished is not None and is_enough and not survey_filtered(final.plan, files).remaining:
                return finished
        done = rounds.complete(existing)
        final = plan_final(identity, done.rounds, accepted, per_part)
        made = {name_of_round(generate.name, number): each.manifest for number, each in enumerate(done.rounds, start=1)}
        facts = describe_cells(done.rounds, done.progress, accepted) | {"max_attempts": accepted.max_attempts}
        manifest = self._write_filtered(
            step,
            final.plan,
            {**manifests, **made},
            lambda state, config: (
                lambda run: run(write_cells, config, items_of(final, state.remaining, done.duplicates, accepted))
            ),
            facts,
        )
        rounds.remove_judged(done.rounds)
        rounds.remove_other_rounds(done.rounds)
        return manifest

    def _run_round(self, step: PlannedStep, spec: GenerateSpec, crossing: Crossing, number: int) -> dict[str, Any]:
        report = self._report(replace(step, name=f"{step.name}, round {number}"))
        with labelling(self.steps[-1].output, step.name):
            return run_job(spec, on_progress=report, tell=self._tell(step), engine=self.engine, crossing=crossing)

    def _connect(self) -> None:
        """Connect Ray once for all steps that are left; they share replicas of the same model."""
        specs = [step.spec for step in self.steps if isinstance(step.spec, JobSpec)]
        extra = max(parse_replicas(spec.replicas)[1] * spec.tensor_parallel for spec in specs)
        self.session.enter_context(ray_cluster(self.spec.address, extra_cpus=extra, tell=self.tell))
        if shared_replicas() is None:
            self.session.enter_context(sharing_replicas())

    def _run_model(self, step: PlannedStep, spec: JobSpec) -> dict[str, Any]:
        around = partial(PassErrors, columns=step.errors) if step.errors else None
        report, tell = self._report(step), self._tell(step)
        with labelling(self.steps[-1].output, step.name):
            return run_job(spec, on_progress=report, tell=tell, engine=self.engine, around_prompts=around)

    def _run_filter(self, step: PlannedStep, source: OutputFiles, before: _Manifests) -> dict[str, Any]:
        assert step.filter is not None, "a step without a model filters or selects rows"
        manifest = list(before.values())[-1]
        first = parse(keep_trying(lambda: self.storage.read(source.part(manifest["parts"][0]["name"]))))
        files = OutputFiles(self.storage, step.output)
        plan = plan_filter(step_identity(self.spec, step), first.schema, manifest, source_files(manifest, source))
        finished = finished_filter(plan, GuardedOutput(files, self.lease.token))
        if finished is not None and not survey_filtered(plan, files).remaining:
            return finished
        done = self._write_filtered(step, plan, before, lambda state, config: part_writer(plan, state, config), {})
        remove_judged(plan, GuardedOutput(files, self.lease.token))
        return done

    def _write_filtered(
        self, step: PlannedStep, plan: Plan, before: _Manifests, writer: _Writer, more: dict[str, Any]
    ) -> dict[str, Any]:
        """Make the missing parts of a filter step and complete its output. `more` are facts for its manifest."""
        assert step.filter is not None, "a step without a model filters or selects rows"
        files = OutputFiles(self.storage, step.output)
        self.lease.confirm()
        output = GuardedOutput(files, self.lease.token)
        store_plan(output, plan)
        config = FilterConfig(output=files, columns=step.filter, rules=step.rules, lease=self.lease.token)
        state = survey_filtered(plan, files)
        receipts, seconds = run_parts(plan, state, self._report(step), writer(state, config))
        self.lease.settle()
        remove_other_parts(output, plan)
        facts = describe_filtered(plan, receipts) | more | current_run().times() | {"seconds": round(seconds, 3)}
        return finish_filtered(output, plan, describe_steps(self.spec, step, facts, before))

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
