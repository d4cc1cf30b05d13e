"""One job from spec to manifest, on one screen: what is asked, what is there, what is left, run it, write it down.

Called by `jobs`. The steps: `plan.py` → `prompts/plan.py` → `output/plan_file.py` → `output/lease.py` →
`execution/graph.py` → `output/ledger.py`.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ray.data import Dataset

from tirazh.actors.dtype import resolve_dtype
from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.placement import refuse_impossible
from tirazh.errors import JobError
from tirazh.model.tokenizer import load_tokenizer
from tirazh.pipeline.columns import added_columns, text_columns
from tirazh.pipeline.execution.graph import build_graph, choose_in_flight, run_graph
from tirazh.pipeline.execution.infer import InferConfig
from tirazh.pipeline.execution.metrics import library_versions, reasons_of_deaths, start_metrics
from tirazh.pipeline.execution.owner_watch import watching_owners
from tirazh.pipeline.execution.progress import JobProgress, OnProgress
from tirazh.pipeline.execution.ray_failures import explained, left_out_sentence
from tirazh.pipeline.execution.ray_session import (
    choose_step_cpus,
    data_settings,
    freeing_replicas,
    ray_session,
    resolve_device,
    share_threads,
)
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.read import PartsDatasource
from tirazh.pipeline.output.assemble import OutputLayout
from tirazh.pipeline.output.lease import LeaseToken, Tell, hold
from tirazh.pipeline.output.ledger import finish, output_uri, read_manifest, still_to_make
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import claim_output, find_plan, write_plan
from tirazh.pipeline.output.write import WriteConfig, WriteStep
from tirazh.pipeline.plan import Plan, plan_job, with_dtype
from tirazh.pipeline.prompts.encode import PromptStep
from tirazh.pipeline.prompts.prepare import PreparedPrompts, prepare_prompts
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec, JobSpec, parse_replicas
from tirazh.pipeline.storage.filesystem import Storage, keep_trying


def run_job(
    spec: JobSpec, *, on_progress: OnProgress | None = None, tell: Tell | None = None, engine: str = "model"
) -> dict[str, Any]:
    """Run the job, or what is left of it, and return its manifest. `tell` is given what a user should know while
    nothing else is to be seen; `engine` is `ReplicaConfig.engine`.

    Raises RequestError before anything is started, JobError when the work failed or another run holds the output;
    finished parts are kept.
    """
    output = OutputFiles(Storage(spec.endpoint_url), output_uri(spec))
    looked = plan_job(spec)
    setup = set_up_prompts(spec, looked)
    begun = find_plan(output, looked, overwrite=spec.overwrite)
    done = read_manifest(output) if begun and output.is_complete() and not still_to_make(begun, output) else None
    if done is not None:
        return done
    with hold(output, lease_s=spec.lease_s, tell=tell) as lease:
        if begun is None:
            lease.confirm()
        # Asked again: whoever held the lease before may have gone on with the job, or begun another one.
        plan = claim_output(output, looked, overwrite=spec.overwrite)
        todo = still_to_make(plan, output)
        facts: dict[str, Any] = {"seconds": 0.0, "resumed_parts": len(plan.parts) - len(todo)}
        if todo:
            output.reopen()
            with ray_session(spec):
                device = resolve_device(spec)
                refuse_impossible(ReplicaConfig(model=spec.model, tensor_parallel=spec.tensor_parallel, device=device))
                plan = plan if plan.dtype != "auto" else with_dtype(plan, resolve_dtype(device))
                lease.confirm()
                write_plan(output, plan)
                facts |= _Run(spec, plan, setup, output, device, engine, lease.claim).make(todo, on_progress)

        def end() -> dict[str, Any]:
            lease.confirm()
            output.sweep()
            return finish(plan, output, spec, facts, confirm=lease.confirm)

        return keep_trying(end)


def set_up_prompts(spec: JobSpec, plan: Plan) -> PreparedPrompts:
    """How prompts are made; reads the tokenizer and the examples."""
    directory = plan.model.tokenizer_dir if plan.model is not None else None
    return prepare_prompts(
        spec,
        load_tokenizer(directory),
        tokenizer_dir=directory or "",
        seq_length=plan.seq_length,
        text_columns=text_columns(spec),
        overrides=plan.overrides,
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """Everything that is settled once Ray is there; makes the plans of the steps out of it."""

    spec: JobSpec
    plan: Plan
    setup: PreparedPrompts
    output: OutputFiles
    device: str
    engine: str
    claim: LeaseToken

    def make(self, todo: list[Part], on_progress: OnProgress | None) -> dict[str, Any]:
        """Make the parts in `todo`; returns facts of the run for the manifest."""
        metrics = start_metrics()
        progress = JobProgress(
            self.plan, todo, samples=self._samples, max_error_rate=self.spec.max_error_rate, on_progress=on_progress
        )
        watched = watching_owners(metrics, timeout_s=self.spec.rank_timeout_s)
        with data_settings(), explained(metrics), progress.watching(metrics), watched, freeing_replicas():
            with closing(run_graph(self._graph(todo, metrics))) as written:
                for part in written:
                    progress.add(part)
        if progress.left_out:
            raise JobError(left_out_sentence(self.plan, progress.left_out, reasons_of_deaths(metrics)))
        return progress.facts() | {"versions": library_versions(metrics)}

    def _graph(self, todo: list[Part], metrics: Any) -> Dataset:
        replicas = parse_replicas(self.spec.replicas)
        return build_graph(
            PartsDatasource(todo, self.output.storage),
            prompts=PromptStep(self.setup.plan),
            infer=self._infer_plan(metrics),
            replicas=replicas,
            in_flight=choose_in_flight(
                [part.rows for part in todo], slots=self._slots, samples=self._samples, replicas=replicas[1]
            ),
            write=WriteStep(self._write_plan()),
            step_cpus=choose_step_cpus(self.spec),
        )

    @property
    def _slots(self) -> int:
        return self.spec.slots_on(self.device)

    @property
    def _samples(self) -> int:
        return self.spec.samples if isinstance(self.spec, GenerateSpec) else 1

    def _infer_plan(self, metrics: Any) -> InferConfig:
        return InferConfig(
            replica=ReplicaConfig(
                model=self.spec.model,
                flags=self.spec.model_settings,
                job=self.setup.engine_job,
                tensor_parallel=self.spec.tensor_parallel,
                dtype=self.plan.dtype,
                device=self.device,
                slots=self._slots,
                seq_length=self.plan.seq_length,
                threads_per_rank=share_threads(self.spec, self.device),
                engine=self.engine,
                start_timeout_s=self.spec.start_timeout_s,
                rank_timeout_s=self.spec.rank_timeout_s,
            ),
            sampling=self.setup.plan.sampling,
            samples=self._samples,
            overrides=self.plan.overrides,
            calibration_ids=self.setup.calibration_ids,
            metrics=metrics,
        )

    def _write_plan(self) -> WriteConfig:
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
            tokenizer_dir=self.setup.plan.tokenizer_dir,
            prefix=self.spec.prefix,
            gold_column=classify.gold_column if classify else None,
            claim=self.claim,
        )
