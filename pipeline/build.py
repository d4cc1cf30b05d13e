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
from tirazh.pipeline.classification.head.linear import LinearHead
from tirazh.pipeline.crossing.crossing import Crossing
from tirazh.pipeline.execution.progress import OnProgress
from tirazh.pipeline.execution.ray_session import (
    ray_session,
    resolve_device,
)
from tirazh.pipeline.execution.shared_replicas import shared_replicas, sharing_replicas
from tirazh.pipeline.head_fitting.file import head_facts
from tirazh.pipeline.head_fitting.make import make_head
from tirazh.pipeline.job_run import AroundPrompts, JobRun
from tirazh.pipeline.output.budget import ErrorBudget
from tirazh.pipeline.output.failure import explaining_failure
from tirazh.pipeline.output.guarded import GuardedOutput
from tirazh.pipeline.output.leases.lease import Lease, Tell, hold
from tirazh.pipeline.output.ledger import facts_of_last_run, finish, finished_manifest, receipt_settings
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.notices import notices
from tirazh.pipeline.output.plan_file import Target, choose_target, write_plan
from tirazh.pipeline.output.promotion import discard_staged, pending_plan, promote
from tirazh.pipeline.output.state import OutputState, repair, survey
from tirazh.pipeline.plan import Plan, plan_job, with_dtype
from tirazh.pipeline.prompt_setup import set_up_prompts
from tirazh.pipeline.prompts.prepare import PreparedPrompts
from tirazh.pipeline.spec import ClassifySpec, JobSpec
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
) -> dict[str, Any]:
    """Run the job, or what remains of it, and return its manifest.

    `tell` receives sentences about waits during which there is no progress, about files of the input that are not
    read, about columns that were unified, and about settings that have no effect. `engine` is `ReplicaConfig.engine`.
    `around_prompts` wraps the step that makes prompts: a job of several steps passes on rows with an error.
    `crossing` has the rows of `vary`, where they are chosen attempts.
    Raises RequestError before anything is changed, JobError if the work fails or another run holds the output.
    Finished parts are kept.
    """
    plan = plan_job(spec, crossing)
    prompts = set_up_prompts(spec, plan)
    output = OutputFiles(plan.job.storage, plan.job.output)
    job = _Job(spec, plan, prompts, output, engine, on_progress, tell or (lambda text: None), around_prompts)
    for line in (*plan.passed_over, *plan.unified, *unused_settings(spec, plan), *prompts.few_shot.notes):
        job.tell(line)
    if pending_plan(output) is None:
        manifest = job.find_finished(choose_target(output, plan, overwrite=spec.overwrite))
        if manifest is not None:
            return manifest
    with hold(output, lease_s=spec.lease_s, tell=tell) as lease:
        return job.run(lease)


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

    def find_finished(self, target: Target) -> dict[str, Any] | None:
        """The manifest of an output in which nothing is left to do, else None.

        Raises JobError if it has more rows with errors than --max-error-rate allows now.
        """
        if not target.is_stored or target.is_staged:
            return None
        manifest = finished_manifest(target.plan, target.output, receipt_settings(self.spec))
        if manifest is not None:
            self._tell_notices(target, None)
            self._check_budget(manifest["errors"], manifest["rows"])
        return manifest

    def run(self, lease: Lease) -> dict[str, Any]:
        """Run the job under the lease of its output."""
        interrupted = keep_trying(lambda: pending_plan(self.output))
        if interrupted is not None:
            self.tell("an earlier run was interrupted while its output replaced another one; this is completed first")
            lease.confirm()
            lease.announce(interrupted.id)
            lease.settle()
            promote(GuardedOutput(self.output, lease.token), interrupted)
        # Look for a stored plan again: the last owner of the lease may have continued the job or started
        # another one.
        target = choose_target(self.output, self.plan, overwrite=self.spec.overwrite)
        manifest = self.find_finished(target)
        if manifest is not None:
            return manifest
        plan, manifest = self._complete(target, lease)
        if target.is_staged:
            promote(GuardedOutput(self.output, lease.token), plan)
        return manifest

    def _complete(self, target: Target, lease: Lease) -> tuple[Plan, dict[str, Any]]:
        """Make what is missing in the target and finish it; return its plan and its manifest."""
        if not target.is_stored:
            self._tell_notices(target, None)
            return self._make_and_finish(target, lease, None)
        state = survey(target.plan, target.output, receipt_settings(self.spec))
        self._tell_notices(target, state)
        lease.announce(target.plan.id)
        with explaining_failure(GuardedOutput(target.output, lease.token), target.plan, self.spec):
            # The rows of earlier runs count, so a job that failed by its error rate fails again, without Ray.
            self._check_budget(state.errors, state.rows)
        if state.remaining:
            return self._make_and_finish(target, lease, state)
        lease.confirm()
        repair(state, target.plan, GuardedOutput(target.output, lease.token))
        facts = facts_of_last_run(target.plan, target.output)
        return target.plan, self._finish(target, target.plan, facts, lease)

    def _make_and_finish(self, target: Target, lease: Lease, state: OutputState | None) -> tuple[Plan, dict[str, Any]]:
        """Make the remaining parts with Ray and finish the output; nothing is changed before Ray is ready.

        `state` is that of a stored plan's parts, None for a new plan.
        """
        with ray_session(self.spec, tell=self.tell), self._replicas():
            device = resolve_device(self.spec)
            refuse_impossible(
                ReplicaConfig(model=self.spec.model, tensor_parallel=self.spec.tensor_parallel, device=device)
            )
            plan = target.plan if target.plan.dtype != "auto" else with_dtype(target.plan, resolve_dtype(device))
            # From here on the output changes, so no other run may own it.
            lease.confirm()
            plan = self._begin(target, plan, lease)
            output = GuardedOutput(target.output, lease.token)
            with explaining_failure(output, plan, self.spec):
                state = state or survey(plan, target.output, receipt_settings(self.spec))
                repair(state, plan, output)
                facts = {"seconds": 0.0, "resumed_parts": len(plan.parts) - len(state.remaining)}
                if state.remaining:
                    run = JobRun(
                        spec=self.spec,
                        plan=plan,
                        prompts=self.prompts,
                        output=target.output,
                        device=device,
                        engine=self.engine,
                        lease=lease.token,
                        earlier_errors=state.errors,
                        earlier_tokens=state.tokens,
                        on_progress=self.on_progress,
                        tell=self.tell,
                        around_prompts=self.around_prompts,
                        head=self._head(plan, output),
                    )
                    facts |= run.make(state.remaining)
        return plan, self._finish(target, plan, facts, lease)

    def _begin(self, target: Target, plan: Plan, lease: Lease) -> Plan:
        """Store the plan, if it is new, and return the stored one."""
        lease.announce(plan.id)
        if not target.is_stored:
            if target.is_staged:
                discard_staged(GuardedOutput(self.output, lease.token))
            plan = write_plan(target.output, plan, lease.token)
        # Readers must not take an output as complete while it changes.
        GuardedOutput(target.output, lease.token).reopen()
        return plan

    def _finish(self, target: Target, plan: Plan, facts: dict[str, Any], lease: Lease) -> dict[str, Any]:
        with explaining_failure(GuardedOutput(target.output, lease.token), plan, self.spec):
            facts = facts | self.prompts.facts() | head_facts(self.spec, plan, target.output)
            return finish(plan, target.output, self.spec, facts, lease=lease, published_at=self.output.directory)

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

    def _check_budget(self, errors: int, answered: int) -> None:
        ErrorBudget(self.spec.max_error_rate, self.plan.output_rows).check(errors=errors, answered=answered)

    def _tell_notices(self, target: Target, state: OutputState | None) -> None:
        for line in notices(target, state, self.plan, self.spec):
            self.tell(line)
