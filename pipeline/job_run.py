"""Makes parts of a plan on Ray: the configurations of all steps, the graph, and its end.

Ray is connected and the request is known to be possible; `build.py` sees to both. Ray is imported where parts are
made, since a preview takes the configurations of the steps without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tirazh.actors.messages import ReplicaConfig
from tirazh.errors import JobError
from tirazh.model.requests import Pooling
from tirazh.pipeline.classification.answers import AnswerLayout
from tirazh.pipeline.classification.head.linear import HEAD_POOLING, LinearHead
from tirazh.pipeline.classify_columns import answer_layouts
from tirazh.pipeline.columns import added_columns, kept_columns
from tirazh.pipeline.constraints.fields import fields_of
from tirazh.pipeline.constraints.settings import job_constraint
from tirazh.pipeline.execution.infer import InferConfig
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.output.assemble import OutputLayout
from tirazh.pipeline.output.leases.lease import LeaseToken, Tell
from tirazh.pipeline.output.ledger import receipt_settings
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.write import MadePart, WriteConfig, WriteStep
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.prompts.choose_step import MakePrompts, choose_prompt_step
from tirazh.pipeline.prompts.prepare import PreparedPrompts
from tirazh.pipeline.repeated_rows import repetitions_of
from tirazh.pipeline.spec import ClassifySpec, EmbedSpec, GenerateSpec, JobSpec, parse_replicas

# Wraps the step that makes prompts.
AroundPrompts = Callable[[MakePrompts], MakePrompts]

if TYPE_CHECKING:
    from ray.data import Dataset

    from tirazh.pipeline.execution.cluster.probe import NodeProbe, Step
    from tirazh.pipeline.execution.metrics_client import MetricsClient
    from tirazh.pipeline.execution.progress import OnProgress
    from tirazh.pipeline.execution.run_resources import RunResources
    from tirazh.pipeline.input.datasource import PartsDatasource


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRun:
    """Everything that is known once Ray is connected; builds the configurations of the steps from it.

    `earlier_errors` are the rows with an error in parts that exist already, `earlier_tokens` the tokens there. `lease`
    is None for a run that writes nothing (a preview). `head` is that of classify with one, None until it is fitted.
    `replaced` has the URIs of the part files whose rows with an error are answered again, by the numbers of the parts.
    """

    spec: JobSpec
    plan: Plan
    prompts: PreparedPrompts
    output: OutputFiles
    device: str
    engine: str
    lease: LeaseToken | None
    earlier_errors: int
    earlier_tokens: tuple[int, int] = (0, 0)
    on_progress: OnProgress | None
    tell: Tell | None
    around_prompts: AroundPrompts | None = None
    head: LinearHead | None = None
    replaced: Mapping[int, str] = field(default_factory=dict)

    def make(self, parts: list[Part]) -> dict[str, Any]:
        """Make `parts` and return facts about the run for the manifest.

        Raises JobError for skipped parts.
        """
        from tirazh.pipeline.execution.cluster.probe import shared_paths
        from tirazh.pipeline.execution.data_settings import data_settings
        from tirazh.pipeline.execution.draining import drainable
        from tirazh.pipeline.execution.graph import choose_in_flight, max_parts_in_flight, run_graph
        from tirazh.pipeline.execution.metrics_client import start_metrics
        from tirazh.pipeline.execution.owner_watch import watching_owners
        from tirazh.pipeline.execution.progress import JobProgress
        from tirazh.pipeline.execution.ray_failures import explained, skipped_sentence
        from tirazh.pipeline.execution.ray_session import share_threads
        from tirazh.pipeline.execution.run_resources import run_resources
        from tirazh.pipeline.input.datasource import PartsDatasource
        from tirazh.pipeline.tracking.prometheus import MetricsExport, labels_of

        repetitions = repetitions_of(self.plan, parts, self.prompts.config, self.output, self.tell)
        metrics = start_metrics()
        metrics.wait_until_ready()
        replicas = parse_replicas(self.spec.replicas)
        progress = JobProgress(
            self.plan,
            parts,
            samples=self._samples,
            max_error_rate=self.spec.max_error_rate,
            earlier_errors=self.earlier_errors,
            replicas_wanted=min(replicas[1], len(parts)),
            on_progress=self.on_progress,
        )
        labels = labels_of(self.output.directory, self.spec.kind)
        progress.export = MetricsExport(labels, replicas[1], *self.earlier_tokens)
        in_flight = choose_in_flight(
            [part.rows for part in parts], slots=self._slots, samples=self._samples, replicas=replicas[1]
        )
        settings = data_settings(max_parts_in_flight=max_parts_in_flight(replicas[1], in_flight))
        watched = watching_owners(metrics, timeout_s=self.spec.rank_timeout_s)
        replica = self.replica_config(threads=share_threads(self.spec, self.device))
        reserved = run_resources(replica, replicas=replicas, tell=self.tell)
        shared = shared_paths(self._probe(parts), needs_gpu=self.device == "cuda")
        with (
            settings,
            explained(metrics),
            progress.watching(metrics),
            drainable(metrics, progress),
            watched,
            shared as checked,
            reserved as resources,
        ):
            source = PartsDatasource(parts, self.output.storage, self.plan.schema, repetitions)
            graph = self._graph(source, metrics, in_flight, resources, checked)
            with closing(run_graph(graph)) as written:
                for part in written:
                    progress.add(part)
        if progress.skipped:
            raise JobError(skipped_sentence(self.plan, progress.skipped, metrics.death_reasons()))
        return progress.facts() | {"versions": metrics.versions()}

    def _graph(
        self,
        source: PartsDatasource,
        metrics: MetricsClient,
        in_flight: int,
        resources: RunResources,
        checked: Callable[[Step], Step],
    ) -> Dataset:
        from tirazh.pipeline.execution.graph import build_graph

        return build_graph(
            source,
            prompts=checked(self.prompt_step()),
            infer=self.infer_config(metrics, resources.replica),
            replicas=parse_replicas(self.spec.replicas),
            in_flight=in_flight,
            write=checked(WriteStep(self.write_config())),
            steps=resources.steps,
        )

    def prompt_step(self) -> MakePrompts:
        """The step that makes prompts."""
        step = choose_prompt_step(self.prompts.config)
        return step if self.around_prompts is None else self.around_prompts(step)

    def _probe(self, parts: list[Part]) -> NodeProbe:
        from tirazh.pipeline.execution.cluster.probe import make_probe

        inputs = sorted({part.file.uri for part in parts if part.has_file})
        return make_probe(self.output.storage, self.output.directory, self.output.own, inputs, self.spec.model)

    @property
    def _slots(self) -> int:
        return self.spec.slots_on(self.device)

    @property
    def _samples(self) -> int:
        """The requests of a row of the input."""
        if self.prompts.labels is not None:
            return self.prompts.labels.layout.orders
        return self.spec.samples if isinstance(self.spec, GenerateSpec) else 1

    def replica_config(self, *, threads: int) -> ReplicaConfig:
        """What a replica needs to start; `threads` are those of a rank, 0 to let the replica decide."""
        return ReplicaConfig(
            model=self.spec.model,
            fetch_model=self.plan.resolved.remote_model if self.plan.resolved is not None else None,
            model_settings=self.spec.model_settings,
            jobs=self.prompts.engine_jobs,
            tensor_parallel=self.spec.tensor_parallel,
            invariant=self.spec.invariant,
            dtype=self.plan.dtype,
            device=self.device,
            slots=self._slots,
            seq_length=self.plan.seq_length,
            threads_per_rank=threads,
            engine=self.engine,
            start_timeout_s=self.spec.start_timeout_s,
            rank_timeout_s=self.spec.rank_timeout_s,
        )

    def infer_config(self, metrics: MetricsClient | None, replica: ReplicaConfig) -> InferConfig:
        """The configuration of the inference step; `metrics` is None without Ray."""
        generate = self.spec if isinstance(self.spec, GenerateSpec) else None
        return InferConfig(
            replica=replica,
            sampling=self.prompts.config.sampling,
            samples=self._samples,
            samples_as_rows=self.plan.rows_per_input_row > 1,
            overrides=self.plan.overrides,
            labels=self.prompts.labels,
            metrics=metrics,
            constraint=job_constraint(generate) if generate else None,
            schema_column=generate.schema_column if generate else None,
            pooling=_pooling(self.spec),
            head=self.head,
        )

    def _answers(self, spec: ClassifySpec) -> tuple[AnswerLayout, ...]:
        fitted = self.prompts.calibration
        if fitted is None:
            return answer_layouts(spec)
        return answer_layouts(spec, calibration=fitted.calibration, threshold=fitted.threshold)

    def write_config(self) -> WriteConfig:
        """The configuration of the sink."""
        classify = self.spec if isinstance(self.spec, ClassifySpec) else None
        return WriteConfig(
            output=self.output,
            layout=OutputLayout(
                columns=self.plan.schema,
                added=added_columns(self.spec, self.plan.schema),
                answers=self._answers(classify) if classify else (),
                samples=self._samples,
                rows_per_input_row=self.plan.rows_per_input_row,
                keep=kept_columns(self.spec, self.plan.schema) if isinstance(self.spec, GenerateSpec) else (),
                fields=fields_of(self.spec) if isinstance(self.spec, GenerateSpec) else (),
            ),
            parts={
                part.index: replace(MadePart.of(part), replaces=self.replaced.get(part.index))
                for part in self.plan.parts
            },
            tokenizer_dir=self.prompts.config.tokenizer_dir,
            receipts=receipt_settings(self.spec),
            lease=self.lease,
        )


def _pooling(spec: JobSpec) -> Pooling | None:
    """The pooling of a job that reads hidden states."""
    if isinstance(spec, ClassifySpec):
        return HEAD_POOLING if spec.head is not None else None
    return spec.pooling if isinstance(spec, EmbedSpec) else None
