"""Plans a job of several steps before anything starts: every step is checked with the columns that it will read.

The first step is planned as a job of its own. The columns of the others follow from the steps before them, so
that a wrong template in the last step is found at once, and not after hours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pyarrow as pa

from tirazh.errors import OutputError, RequestError
from tirazh.model.architectures import check_tensor_parallel
from tirazh.model.config import check_invariant, check_split
from tirazh.pipeline import schema
from tirazh.pipeline.columns import added_columns, check_columns, override_columns
from tirazh.pipeline.input.listing.files import would_read
from tirazh.pipeline.input.parts import part_name
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import choose_target, job_difference, read_plan
from tirazh.pipeline.plan import Plan, plan_job
from tirazh.pipeline.prompt_setup import set_up_prompts
from tirazh.pipeline.resolve import resolve_job
from tirazh.pipeline.settings import fingerprint_of
from tirazh.pipeline.spec import Accepted, FilterSpec, GenerateSpec, JobSpec, StepsSpec
from tirazh.pipeline.steps.directories import round_output, step_output
from tirazh.pipeline.steps.expand import expand
from tirazh.pipeline.steps.filtering.columns import FilterColumns, TextColumns, filter_columns
from tirazh.pipeline.steps.filtering.quality import Rules, prepare_rules
from tirazh.pipeline.steps.passed_errors import ErrorColumn
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, full_uri, join


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """A step that was checked.

    `number` counts from 1. `output` is the URI of its output directory. `spec` is None for the last pass of a job
    that ends with a step of another kind: it selects the columns. `plan` is that of a step with a model; of all
    but the first it has no files yet. `errors` are the columns with the errors of the steps before it. `filter` is
    what a filter step reads and writes, and `rules` how it judges. `accepted`
    is set in both steps whose rows are attempts: generate and its filter.
    """

    number: int
    name: str
    output: str
    spec: JobSpec | FilterSpec | None
    columns: pa.Schema
    errors: tuple[ErrorColumn, ...]
    plan: Plan | None = None
    filter: FilterColumns | None = None
    rules: Rules | None = None
    accepted: Accepted | None = None

    @property
    def is_last(self) -> bool:
        """Whether its output is that of the job."""
        return self.filter is not None and self.filter.is_last


def plan_steps(spec: StepsSpec) -> list[PlannedStep]:
    """Check all steps of a job. Reads no rows and writes nothing.

    Raises RequestError or one of its subclasses, with the name of the step.
    """
    storage, output = Storage(spec.endpoint_url), full_uri(spec.output)
    _refuse_output_in_input(spec, output)
    steps: list[PlannedStep] = []
    errors: tuple[ErrorColumn, ...] = ()
    generate: GenerateSpec | None = None
    expanded = expand(spec)
    for number, step in enumerate(expanded.steps, start=1):
        with _named(step.name):
            before = steps[-1].columns if steps else None
            if isinstance(step.spec, JobSpec):
                planned = _plan_model_step(number, step.name, step.spec, before, errors)
                following = expanded.steps[number : number + 1]
                planned = replace(planned, accepted=next((each.accepted for each in following), None))
                errors = (*errors, ErrorColumn(step.spec.prefix + schema.ERROR, step.name))
                generate = step.spec if isinstance(step.spec, GenerateSpec) else generate
            else:
                assert before is not None, "a filter is never the first step"
                is_last = number == len(expanded.steps)
                directory = output if is_last else step_output(output, number, step.name)
                chosen = filter_columns(
                    before,
                    step.spec,
                    errors=errors,
                    texts=_texts_of(generate, before),
                    asked=spec.columns,
                    hidden=expanded.hidden,
                    is_last=is_last,
                )
                planned = PlannedStep(
                    number=number,
                    name=step.name,
                    output=directory,
                    spec=step.spec,
                    columns=chosen.kept_schema(before),
                    errors=errors,
                    filter=chosen,
                    rules=_rules(step.spec, before, chosen, generate, storage),
                    accepted=step.accepted,
                )
        steps.append(planned)
    if not steps[-1].is_last:
        steps.append(_last_pass(spec, steps[-1], errors, output, expanded.hidden))
    _refuse_other_jobs(spec, steps, storage)
    return steps


def _texts_of(generate: GenerateSpec | None, columns: pa.Schema) -> TextColumns:
    if generate is None:
        return TextColumns()
    prompt = generate.prefix + schema.PROMPT
    return TextColumns(generate.prefix + schema.COMPLETION, prompt if prompt in columns.names else None)


def _rules(
    spec: FilterSpec, columns: pa.Schema, chosen: FilterColumns, generate: GenerateSpec | None, storage: Storage
) -> Rules:
    assert chosen.text_column is not None, "`filter_columns` refuses a filter without a text"
    return prepare_rules(
        spec,
        columns,
        storage,
        generate=generate,
        text_column=chosen.text_column,
        prompt_column=chosen.prompt_column,
    )


def _plan_model_step(
    number: int, name: str, spec: JobSpec, before: pa.Schema | None, errors: tuple[ErrorColumn, ...]
) -> PlannedStep:
    plan = plan_job(spec) if before is None else plan_columns(spec, before)
    set_up_prompts(spec, plan)
    return PlannedStep(
        number=number,
        name=name,
        output=full_uri(spec.output),
        spec=spec,
        columns=pa.schema([*plan.schema, *added_columns(spec)]),
        errors=errors,
        plan=plan,
    )


def plan_columns(spec: JobSpec, columns: pa.Schema) -> Plan:
    """Plan a job whose input does not exist yet, from the columns that it will have: a plan without files.

    Raises RequestError, InputError or CheckpointError, as `plan_job` does.
    """
    job = resolve_job(spec)
    check_split(job.model.num_attention_heads, spec.tensor_parallel)
    if job.model.foreign is not None:
        check_tensor_parallel(job.model.foreign.values, spec.tensor_parallel)
    if spec.invariant is not None:
        check_invariant(job.model.config, spec.tensor_parallel)
    check_columns(columns, spec, job.source)
    return Plan(
        identity=job.identity,
        fingerprint=fingerprint_of(job.identity),
        model_fingerprint=job.model.fingerprint,
        examples_sha256=None,
        dtype=spec.dtype,
        seq_length=job.seq_length,
        schema=columns,
        overrides=override_columns(columns) if spec.kind == "generate" else (),
        files=(),
        estimated_tokens=0,
        resolved=job,
    )


def _last_pass(
    spec: StepsSpec, before: PlannedStep, errors: tuple[ErrorColumn, ...], output: str, hidden: tuple[str, ...]
) -> PlannedStep:
    chosen = filter_columns(
        before.columns,
        None,
        errors=errors,
        texts=TextColumns(),
        asked=spec.columns,
        hidden=hidden,
        is_last=True,
    )
    return PlannedStep(
        number=before.number + 1,
        name="output",
        output=output,
        spec=None,
        columns=chosen.kept_schema(before.columns),
        errors=errors,
        filter=chosen,
    )


def _refuse_other_jobs(spec: StepsSpec, steps: list[PlannedStep], storage: Storage) -> None:
    """Raise OutputError if a directory of the job has the files of a job with other settings."""
    for step in steps:
        if step.plan is None or spec.overwrite:
            continue
        with _named(step.name):
            directory = step.output if step.accepted is None else round_output(step.output, 1)
            files = OutputFiles(storage, directory)
            if step.plan.files and step.accepted is None:
                choose_target(files, step.plan, overwrite=False)
                continue
            stored = read_plan(files)
            difference = job_difference(stored, step.plan) if stored is not None else None
            if difference is not None:
                raise OutputError(
                    f"{show_uri(files.directory)} contains the output of another job: {difference}; give --overwrite "
                    "to replace it once the new output is complete, or another --output"
                )


def _refuse_output_in_input(spec: StepsSpec, output: str) -> None:
    first = spec.steps[0].spec
    for uri in map(full_uri, first.input if isinstance(first, JobSpec) else ()):
        if would_read(uri, join(output, part_name(0, 1, ""))):
            raise OutputError(
                f"output {show_uri(output)} lies inside the input {show_uri(uri)}, so the next run would read its own "
                "results; choose an output directory outside of the input"
            )


@contextmanager
def _named(step: str) -> Iterator[None]:
    """Put the name of the step before the message of a RequestError."""
    try:
        yield
    except RequestError as error:
        raise type(error)(f"step {step!r}: {error}") from None
