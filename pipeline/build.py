"""Runs one job from spec to manifest: plan it, take the lease, resume or start, execute the graph, finish.

The steps are in `plan.py`, `prompts/prepare.py`, `output/plan_file.py`, `output/lease.py`,
`execution/graph.py` and `output/ledger.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ray.data import Dataset

from tirazh.actors.dtype import resolve_dtype
from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.placement import refuse_impossible
from tirazh.errors import JobError
from tirazh.model.tokenizer import load_tokenizer
from tirazh.pipeline.columns import added_columns
from tirazh.pipeline.execution.data_settings import data_settings
from tirazh.pipeline.execution.graph import build_graph, choose_in_flight, max_parts_in_flight, run_graph
from tirazh.pipeline.execution.infer import InferConfig
from tirazh.pipeline.execution.metrics_client import MetricsClient, start_metrics
from tirazh.pipeline.execution.node_probe import NodeProbe, Step, make_probe, shared_paths
from tirazh.pipeline.execution.owner_watch import watching_owners
from tirazh.pipeline.execution.progress import JobProgress, OnProgress
from tirazh.pipeline.execution.ray_failures import explained, skipped_sentence
from tirazh.pipeline.execution.ray_session import (
    ray_session,
    resolve_device,
    share_threads,
)
from tirazh.pipeline.execution.run_resources import RunResources, run_resources
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.read import PartsDatasource
from tirazh.pipeline.output.assemble import OutputLayout
from tirazh.pipeline.output.lease import LeaseToken, Tell, hold
from tirazh.pipeline.output.ledger import finish, read_manifest, remaining_parts
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import claim_output, find_plan, write_plan
from tirazh.pipeline.output.write import WriteConfig, WriteStep
from tirazh.pipeline.plan import Plan, plan_job, with_dtype
from tirazh.pipeline.prompts.encode import PromptStep
from tirazh.pipeline.prompts.prepare import PreparedPrompts, prepare_prompts
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec, JobSpec, parse_replicas
from tirazh.pipeline.storage.filesystem import keep_trying


def run_job(
    spec: JobSpec, *, on_progress: OnProgress | None = None, tell: Tell | None = None, engine: str = "model"
) -> dict[str, Any]:
    """Run the job, or what remains of it, and return its manifest.

    `tell` receives sentences about waits during which there is no progress. `engine` is
    `ReplicaConfig.engine`. Raises RequestError before anything is started, JobError if the work
    fails or another run holds the output. Finished parts are kept.
    """
    new_plan = plan_job(spec)
    output = OutputFiles(new_plan.job.storage, new_plan.job.output)
    prompts = set_up_prompts(spec, new_plan)
    stored = find_plan(output, new_plan, overwrite=spec.overwrite)
    if stored is not None and output.is_complete() and not remaining_parts(stored, output):
        manifest = read_manifest(output)
        if manifest is not None:
            return manifest
    with hold(output, lease_s=spec.lease_s, tell=tell) as lease:
        if stored is None:
            lease.confirm()
        # Look for a stored plan again: the last owner of the lease may have continued the job or
        # started another one.
        plan = claim_output(output, new_plan, overwrite=spec.overwrite)
        remaining = remaining_parts(plan, output)
        facts: dict[str, Any] = {"seconds": 0.0, "resumed_parts": len(plan.parts) - len(remaining)}
        if remaining:
            # `_SUCCESS` is removed first: readers must not take an output as complete while it
            # changes.
            output.reopen()
            with ray_session(spec, tell=tell):
                device = resolve_device(spec)
                refuse_impossible(ReplicaConfig(model=spec.model, tensor_parallel=spec.tensor_parallel, device=device))
                plan = plan if plan.dtype != "auto" else with_dtype(plan, resolve_dtype(device))
                # From here on the plan is binding, so no other run may own the output.
                lease.confirm()
                write_plan(output, plan)
                run = _JobRun(spec, plan, prompts, output, device, engine, lease.token)
                facts |= run.make(remaining, on_progress, tell)

        def end() -> dict[str, Any]:
            lease.confirm()
            output.sweep()
            return finish(plan, output, spec, facts, confirm=lease.confirm)

        # An outage of the storage at the last step must not lose a finished job.
        return keep_trying(end)


def set_up_prompts(spec: JobSpec, plan: Plan) -> PreparedPrompts:
    """Load the tokenizer and prepare the prompts. `plan` is one that `plan_job` returned."""
    directory = plan.job.model.tokenizer_dir
    return prepare_prompts(
        spec,
        load_tokenizer(directory),
        plan.job.source,
        tokenizer_dir=directory or "",
        seq_length=plan.seq_length,
        examples=plan.job.examples,
        overrides=plan.overrides,
    )


@dataclass(frozen=True, slots=True)
class _JobRun:
    """Everything that is known once Ray is connected; builds the configurations of the steps from it."""

    spec: JobSpec
    plan: Plan
    prompts: PreparedPrompts
    output: OutputFiles
    device: str
    engine: str
    lease: LeaseToken

    def make(self, parts: list[Part], on_progress: OnProgress | None, tell: Tell | None = None) -> dict[str, Any]:
        """Make `parts` and return facts about the run for the manifest.

        Raises JobError for skipped parts.
        """
        metrics = start_metrics()
        metrics.wait_until_ready()
        progress = JobProgress(
            self.plan, parts, samples=self._samples, max_error_rate=self.spec.max_error_rate, on_progress=on_progress
        )
        replicas = parse_replicas(self.spec.replicas)
        in_flight = choose_in_flight(
            [part.rows for part in parts], slots=self._slots, samples=self._samples, replicas=replicas[1]
        )
        settings = data_settings(max_parts_in_flight=max_parts_in_flight(replicas[1], in_flight))
        watched = watching_owners(metrics, timeout_s=self.spec.rank_timeout_s)
        reserved = run_resources(self._replica_config(), replicas=replicas[1], tell=tell)
        shared = shared_paths(self._probe(parts), needs_gpu=self.device == "cuda")
        with (
            settings,
            explained(metrics),
            progress.watching(metrics),
            watched,
            shared as checked,
            reserved as resources,
        ):
            graph = self._graph(parts, metrics, in_flight, resources, checked)
            with closing(run_graph(graph)) as written:
                for part in written:
                    progress.add(part)
        if progress.skipped:
            raise JobError(skipped_sentence(self.plan, progress.skipped, metrics.death_reasons()))
        return progress.facts() | {"versions": metrics.versions()}

    def _graph(
        self,
        parts: list[Part],
        metrics: MetricsClient,
        in_flight: int,
        resources: RunResources,
        checked: Callable[[Step], Step],
    ) -> Dataset:
        return build_graph(
            PartsDatasource(parts, self.output.storage),
            prompts=checked(PromptStep(self.prompts.config)),
            infer=self._infer_config(metrics, resources.replica),
            replicas=parse_replicas(self.spec.replicas),
            in_flight=in_flight,
            write=checked(WriteStep(self._write_config())),
            steps=resources.steps,
        )

    def _probe(self, parts: list[Part]) -> NodeProbe:
        inputs = sorted({part.file.uri for part in parts})
        return make_probe(self.output.storage, self.output.directory, self.output.own, inputs, self.spec.model)

    @property
    def _slots(self) -> int:
        return self.spec.slots_on(self.device)

    @property
    def _samples(self) -> int:
        return self.spec.samples if isinstance(self.spec, GenerateSpec) else 1

    def _replica_config(self) -> ReplicaConfig:
        return ReplicaConfig(
            model=self.spec.model,
            model_settings=self.spec.model_settings,
            job=self.prompts.engine_job,
            tensor_parallel=self.spec.tensor_parallel,
            dtype=self.plan.dtype,
            device=self.device,
            slots=self._slots,
            seq_length=self.plan.seq_length,
            threads_per_rank=share_threads(self.spec, self.device),
            engine=self.engine,
            start_timeout_s=self.spec.start_timeout_s,
            rank_timeout_s=self.spec.rank_timeout_s,
        )

    def _infer_config(self, metrics: MetricsClient, replica: ReplicaConfig) -> InferConfig:
        return InferConfig(
            replica=replica,
            sampling=self.prompts.config.sampling,
            samples=self._samples,
            overrides=self.plan.overrides,
            calibration_ids=self.prompts.calibration_ids,
            metrics=metrics,
        )

    def _write_config(self) -> WriteConfig:
        classify = self.spec if isinstance(self.spec, ClassifySpec) else None
        return WriteConfig(
            output=self.output,
            layout=OutputLayout(
                columns=self.plan.schema,
                added=added_columns(self.spec),
                labels=tuple(classify.labels) if classify else (),
                samples=self._samples,
                abstain_below=classify.abstain_below if classify else 0.0,
            ),
            fingerprint=self.plan.fingerprint,
            total_parts=len(self.plan.parts),
            tokenizer_dir=self.prompts.config.tokenizer_dir,
            prefix=self.spec.prefix,
            gold_column=classify.gold_column if classify else None,
            lease=self.lease,
        )
