"""Runs one job from spec to manifest: plan it, take the lease, resume or start, execute the graph, finish.

The steps are in `plan.py`, `prompts/prepare.py`, `output/plan_file.py`, `output/lease.py`, `output/state.py`,
`execution/graph.py`, `output/ledger.py` and, with --overwrite, `output/promotion.py`. Nothing that readers
of an existing output see is changed before the request is known to be possible: the prompts are prepared,
Ray is connected, and the cluster can hold a replica.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tirazh.actors.dtype import resolve_dtype
from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.placement import refuse_impossible
from tirazh.errors import JobError
from tirazh.pipeline.classification.head.linear import LinearHead
from tirazh.pipeline.crossing.crossing import Crossing
from tirazh.pipeline.empty_output import write_empty_part
from tirazh.pipeline.execution.progress import OnProgress, waiting_for_ray
from tirazh.pipeline.execution.ray_session import (
    ray_session,
    resolve_device,
)
from tirazh.pipeline.execution.shared_replicas import shared_replicas, sharing_replicas
from tirazh.pipeline.forecast.at_start import begin_forecast, forecast_facts
from tirazh.pipeline.head_fitting.file import head_facts
from tirazh.pipeline.head_fitting.make import make_head
from tirazh.pipeline.history.recorder import current_run, failing_early, record_idle_run, recording
from tirazh.pipeline.job_run import AroundPrompts, JobRun
from tirazh.pipeline.output.budget import ErrorBudget
from tirazh.pipeline.output.failure import explaining_failure
from tirazh.pipeline.output.generations.adding import Adding, check_adding
from tirazh.pipeline.output.generations.append import plan_first
from tirazh.pipeline.output.generations.join import facts_of, join_parts
from tirazh.pipeline.output.generations.retry import FailedParts, failed_parts
from tirazh.pipeline.output.generations.steps import Step, is_joining, join_step, next_steps
from tirazh.pipeline.output.guarded import GuardedOutput
from tirazh.pipeline.output.leases.lease import Lease, Tell, hold
from tirazh.pipeline.output.ledger import facts_of_last_run, finish, finished_manifest, receipt_settings
from tirazh.pipeline.output.names import HEAD, OutputFiles
from tirazh.pipeline.output.notices import notices
from tirazh.pipeline.output.plan_file import Target, choose_target, write_plan
from tirazh.pipeline.output.promotion import discard_staged, pending_plan, promote
from tirazh.pipeline.output.state import OutputState, repair, survey
from tirazh.pipeline.plan import Plan, plan_job, with_dtype
from tirazh.pipeline.prompt_setup import set_up_prompts
from tirazh.pipeline.prompts.prepare import PreparedPrompts
from tirazh.pipeline.spec import ClassifySpec, JobSpec
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import keep_trying
from tirazh.pipeline.tracking.prometheus import labelling
from tirazh.pipeline.unused_settings import unused_settings


def run_job(
    spec: JobSpec,
    *,
    on_progress: OnProgress | None = None,
    tell: Tell | None = None,
    engine: str = "model",
    around_prompts: AroundPrompts | None = None,
    crossing: Crossing | None = None,
    joins: bool = False,
) -> dict[str, Any]:
    """Run the job, or what remains of it, and return its manifest.

    `tell` receives sentences about waits during which there is no progress, about files of the input that are not
    read, about columns that were unified, and about settings that have no effect. `engine` is `ReplicaConfig.engine`.
    `around_prompts` wraps the step that makes prompts: a job of several steps passes on rows with an error.
    `crossing` has the rows of `vary`, where they are chosen attempts. With `joins` the small part files of an output
    that this run completes are joined at the end.
    Raises RequestError before anything is changed, JobError if the work fails or another run holds the output.
    Finished parts are kept.
    """
    check_adding(spec)
    plan = plan_job(spec, crossing)
    prompts = set_up_prompts(spec, plan)
    output = OutputFiles(plan.job.storage, plan.job.output)
    job = _Job(spec, plan, prompts, output, engine, on_progress, tell or (lambda text: None), around_prompts, joins)
    for line in (*plan.passed_over, *plan.unified, *unused_settings(spec, plan), *prompts.few_shot.notes):
        job.tell(line)
    if pending_plan(output) is None:
        target = job.choose_target()
        manifest = job.find_finished(target)
        is_done = manifest is not None and not (joins and is_joining(output))
        if manifest is not None and is_done and next(next_steps(output, plan, spec), None) is None:
            job.tell_notices(target, None)
            record_idle_run(output, manifest, kind=spec.kind, lease_s=spec.lease_s)
            return job.allowed(manifest, is_changed=False)
    with (
        hold(output, lease_s=spec.lease_s, tell=tell) as lease,
        recording(output, lease, kind=spec.kind) as run,
    ):
        manifest = job.run(lease)
        run.finish(manifest)
        return manifest


@dataclass(frozen=True, slots=True)
class _Job:
    """A job whose request is valid. `plan` is what its settings alone give; a stored plan takes precedence."""

    spec: JobSpec
    plan: Plan
    prompts: PreparedPrompts
    output: OutputFiles
    engine: str
    on_progress: OnProgress | None
    tell: Tell
    around_prompts: AroundPrompts | None
    joins: bool

    def choose_target(self) -> Target:
        """Where this run writes first, before the steps that continue a complete output."""
        target = choose_target(self.output, self.plan, overwrite=self.spec.overwrite, adding=Adding.of(self.spec))
        return target if target.is_stored else replace(target, plan=plan_first(target.plan, self.spec))

    def find_finished(self, target: Target) -> dict[str, Any] | None:
        """The manifest of a complete output of this job, else None."""
        if not target.is_stored or target.is_staged:
            return None
        return finished_manifest(target.plan, target.output, receipt_settings(self.spec))

    def allowed(self, manifest: dict[str, Any], *, is_changed: bool) -> dict[str, Any]:
        """The manifest of an output in which nothing is left to do.

        Raises JobError if it has more rows with errors than --max-error-rate allows now.
        """
        if not is_changed:
            for setting, what in ((self.spec.append, "new rows"), (self.spec.retry_failed, "rows with an error")):
                if setting:
                    self.tell(
                        f"{show_uri(self.output.directory)} is complete, and there are no {what}; nothing was changed"
                    )
        ErrorBudget(self.spec.max_error_rate, manifest["rows"]).check(
            errors=manifest["errors"], answered=manifest["rows"]
        )
        return manifest

    def run(self, lease: Lease) -> dict[str, Any]:
        """Run the job under the lease of its output."""
        interrupted = keep_trying(lambda: pending_plan(self.output))
        if interrupted is not None:
            self.tell(
                "an earlier run was interrupted while it moved new files into the output; this is completed first"
            )
            lease.confirm()
            lease.announce(interrupted.id)
            lease.settle()
            promote(GuardedOutput(self.output, lease.token), interrupted)
        # Look for a stored plan again: the last owner of the lease may have continued the job or started
        # another one.
        target = self.choose_target()
        manifest = self.find_finished(target)
        is_changed = manifest is None or (self.joins and is_joining(self.output))
        if manifest is not None:
            self.tell_notices(target, None)
            current_run().found_finished(manifest)
        if manifest is None and not self._is_to_be_retried(target, lease):
            plan, manifest = self._complete(target, lease)
            if target.is_staged:
                promote(GuardedOutput(self.output, lease.token), plan)
        for step in next_steps(self.output, self.plan, self.spec):
            manifest, is_changed = self._take(step, lease), True
        assert manifest is not None, "an output that is not complete has rows to answer again"
        manifest = self.allowed(manifest, is_changed=is_changed)
        return self._join(manifest, lease) if is_changed and self.joins else manifest

    def _is_to_be_retried(self, target: Target, lease: Lease) -> bool:
        """Whether all parts are there, and have rows with an error that are answered again before the job ends."""
        if not self.spec.retry_failed or not target.is_stored or target.is_staged:
            return False
        state = survey(target.plan, target.output, receipt_settings(self.spec))
        if state.remaining or not state.errors:
            return False
        self.tell_notices(target, state)
        lease.confirm()
        lease.announce(target.plan.id)
        current_run().found(target.plan, target.output, state)
        repair(state, target.plan, GuardedOutput(target.output, lease.token))
        return True

    def _take(self, step: Step, lease: Lease) -> dict[str, Any]:
        """Make the new parts of a step that continues the complete output, and move them in."""
        for line in (*step.target.lines, f"this run will {step.text}"):
            self.tell(line)
        if _is_retry(step.target.plan):
            current_run().replaces(step.rows)
        plan, manifest = self._complete(step.target, lease, step)
        promote(GuardedOutput(self.output, lease.token), plan)
        with explaining_failure(GuardedOutput(self.output, lease.token), plan, self.spec):
            return self.allowed(manifest, is_changed=True)

    def _join(self, manifest: dict[str, Any], lease: Lease) -> dict[str, Any]:
        """Join the small files of the complete output, and return its manifest."""
        step = join_step(self.output, self.spec)
        if step is None:
            return manifest
        target, settings = step.target, receipt_settings(self.spec)
        lease.confirm()
        plan = self._begin(target, target.plan, lease)
        state = survey(plan, target.output, settings)
        self._repair(state, plan, target, lease)
        join_parts(step.base, plan, self.spec, self.output, target.output, state.remaining, lease.token)
        facts, published = facts_of(manifest, step.base), self.output.directory
        manifest = finish(plan, target.output, self.spec, facts, lease=lease, published_at=published)
        promote(GuardedOutput(self.output, lease.token), plan)
        return manifest

    def _complete(self, target: Target, lease: Lease, step: Step | None = None) -> tuple[Plan, dict[str, Any]]:
        """Make what is missing in the target and finish it; return its plan and its manifest."""
        if not target.is_stored:
            self.tell_notices(target, None)
            current_run().found(target.plan, target.output, None)
            return self._make_and_finish(target, lease, None, step)
        state = survey(target.plan, target.output, receipt_settings(self.spec))
        self.tell_notices(target, state)
        current_run().found(target.plan, target.output, state)
        lease.announce(target.plan.id)
        with explaining_failure(GuardedOutput(target.output, lease.token), target.plan, self.spec):
            # The rows of earlier runs count, so a job that failed by its error rate fails again, without Ray.
            if not _is_retry(target.plan):
                budget = ErrorBudget(self.spec.max_error_rate, target.plan.output_rows)
                budget.check(errors=state.errors, answered=state.rows)
        if state.remaining:
            return self._make_and_finish(target, lease, state, step)
        lease.confirm()
        self._repair(state, target.plan, target, lease)
        facts = facts_of_last_run(target.plan, target.output)
        return target.plan, self._finish(target, target.plan, facts, lease)

    def _repair(self, state: OutputState, plan: Plan, target: Target, lease: Lease) -> None:
        """Repair the parts of a target. Raises JobError if a part of the output that it continues is damaged."""
        kept = target.output.kept.names if target.output.kept is not None else frozenset()
        damaged = sorted(kept.intersection((*state.damaged, *state.orphaned)))
        if damaged:
            raise JobError(
                f"{show_uri(self.output.directory)}: {damaged[0]} was changed after it was written; run the same "
                "command without --append and --retry-failed, which makes it again"
            )
        repair(state, plan, GuardedOutput(target.output, lease.token))

    def _make_and_finish(
        self, target: Target, lease: Lease, state: OutputState | None, step: Step | None
    ) -> tuple[Plan, dict[str, Any]]:
        """Make the remaining parts with Ray and finish the output; nothing is changed before Ray is ready.

        `state` is that of a stored plan's parts, None for a new plan.
        """
        if not target.plan.rows:
            return self._make_empty(target, lease)
        is_new = state is None and self.engine == "model"
        forecast = begin_forecast(target.plan, self.spec, self.prompts) if is_new else None
        waiting = waiting_for_ray(target.plan, state, self.on_progress)
        with waiting as connected, ray_session(self.spec, tell=self.tell), self._replicas():
            connected()
            device = resolve_device(self.spec)
            refuse_impossible(
                ReplicaConfig(
                    model=self.spec.model,
                    tensor_parallel=self.spec.tensor_parallel,
                    invariant=self.spec.invariant,
                    dtype=self.spec.dtype,
                    device=device,
                )
            )
            plan = target.plan if target.plan.dtype != "auto" else with_dtype(target.plan, resolve_dtype(device))
            # From here on the output changes, so no other run may own it.
            lease.confirm()
            plan = self._begin(target, plan, lease)
            output = GuardedOutput(target.output, lease.token)
            with failing_early(), explaining_failure(output, plan, self.spec):
                state = state or survey(plan, target.output, receipt_settings(self.spec))
                current_run().found(plan, target.output, state)
                self._repair(state, plan, target, lease)
                facts = {"seconds": 0.0, "resumed_parts": len(plan.parts) - len(state.remaining)}
                if state.remaining:
                    made = FailedParts(state.remaining, {})
                    if step is not None and _is_retry(plan):
                        made = failed_parts(step.base, plan, self.output, state.remaining)
                    run = self._job_run(plan, target, device, lease, state)
                    run = replace(run, head=self._head(plan, output), replaced=made.replaced)
                    facts |= run.make(made.parts) | forecast_facts(forecast)
        return plan, self._finish(target, plan, facts, lease)

    def _make_empty(self, target: Target, lease: Lease) -> tuple[Plan, dict[str, Any]]:
        """Write the one part of a job without rows, which needs no Ray, and finish the output."""
        plan = target.plan if target.plan.dtype != "auto" else with_dtype(target.plan, "float32")
        lease.confirm()
        plan = self._begin(target, plan, lease)
        with explaining_failure(GuardedOutput(target.output, lease.token), plan, self.spec):
            current_run().found(plan, target.output, None)
            write_empty_part(self._job_run(plan, target, "cpu", lease, None))
        return plan, self._finish(target, plan, {"seconds": 0.0, "tokens_per_s": 0.0, "resumed_parts": 0}, lease)

    def _job_run(self, plan: Plan, target: Target, device: str, lease: Lease, state: OutputState | None) -> JobRun:
        return JobRun(
            # Errors of a retry do not end it: all other rows are there already.
            spec=replace(self.spec, max_error_rate=1.0) if _is_retry(plan) else self.spec,
            plan=replace(plan, resolved=self.plan.resolved),
            prompts=self.prompts,
            output=target.output,
            device=device,
            engine=self.engine,
            lease=lease.token,
            earlier_errors=state.errors if state is not None else 0,
            earlier_tokens=state.tokens if state is not None else (0, 0),
            on_progress=current_run().watch(self.on_progress),
            tell=self.tell,
            around_prompts=self.around_prompts,
        )

    def _begin(self, target: Target, plan: Plan, lease: Lease) -> Plan:
        """Store the plan, if it is new, and return the stored one."""
        lease.announce(plan.id)
        if not target.is_stored:
            if target.is_staged:
                discard_staged(GuardedOutput(self.output, lease.token))
            plan = write_plan(target.output, plan, lease.token)
            if target.continues and "head" in plan.identity:
                head = keep_trying(lambda: self.output.storage.read(self.output.own(HEAD)))
                GuardedOutput(target.output, lease.token).create(target.output.own(HEAD), head)
        # Readers must not take an output as complete while it changes.
        GuardedOutput(target.output, lease.token).reopen()
        return plan

    def _finish(self, target: Target, plan: Plan, facts: dict[str, Any], lease: Lease) -> dict[str, Any]:
        with explaining_failure(GuardedOutput(target.output, lease.token), plan, self.spec):
            facts = current_run().times() | facts | self.prompts.facts() | head_facts(self.spec, plan, target.output)
            return finish(
                plan,
                target.output,
                self.spec,
                facts,
                lease=lease,
                published_at=self.output.directory,
                check_budget=not _is_retry(plan),
            )

    def _replicas(self) -> AbstractContextManager[None]:
        """A pool of replicas for a job that embeds examples before it classifies: both take the same ones."""
        has_two_runs = isinstance(self.spec, ClassifySpec) and self.spec.head is not None
        return sharing_replicas() if has_two_runs and shared_replicas() is None else nullcontext()

    def _head(self, plan: Plan, output: GuardedOutput) -> LinearHead | None:
        """The linear head of the job, if it has one; it is fitted unless it is stored."""
        if not isinstance(self.spec, ClassifySpec) or self.spec.head is None:
            return None
        show = self.on_progress
        shown = None if show is None else lambda event: show(replace(event, step="embedding the examples"))
        with labelling(self.output.directory, "examples"):
            return make_head(self.spec, plan, output, partial(run_job, on_progress=shown, engine=self.engine))

    def tell_notices(self, target: Target, state: OutputState | None) -> None:
        """Tell what a user has to know about a run on `target`, whose parts are in `state`."""
        for line in notices(target, state, self.plan, self.spec):
            self.tell(line)


def _is_retry(plan: Plan) -> bool:
    """Whether a plan that has just been made answers rows with an error again."""
    return plan.continued is not None and plan.continued.step == "retry"
