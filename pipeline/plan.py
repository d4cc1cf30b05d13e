"""Plans a job before anything is started: input files, columns, parts and the model's identity.

`plan_job` reads file listings, Parquet footers and the model's configuration. It writes nothing and
needs neither Ray nor torch. `output/plan_file.py` stores the plan, and a resumed job follows the stored
plan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import pyarrow as pa

from tirazh.actors.messages import DType
from tirazh.errors import InputError, OutputError
from tirazh.model.architectures import check_tensor_parallel
from tirazh.model.checkpoints.directory import ModelSummary
from tirazh.model.config import check_invariant, check_split
from tirazh.model.tokenizer import load_tokenizer
from tirazh.pipeline.columns import check_columns, check_vary, override_columns
from tirazh.pipeline.constraints.check import check_constraint
from tirazh.pipeline.constraints.settings import used_setting
from tirazh.pipeline.crossing.crossing import Crossing
from tirazh.pipeline.input.crossed import cross_footers, footer_of
from tirazh.pipeline.input.decoded_size import with_decoded_sizes
from tirazh.pipeline.input.empty import empty_footer
from tirazh.pipeline.input.footers import Footer, read_footers
from tirazh.pipeline.input.listing.files import find_inputs, would_read
from tirazh.pipeline.input.parts import (
    Part,
    RowCost,
    choose_part_tokens,
    count_tokens,
    cut_kept_rows,
    kept_groups,
    part_name,
    take_rows,
)
from tirazh.pipeline.input.ranges import range_reader
from tirazh.pipeline.input.read import read_rows
from tirazh.pipeline.input.row_mask import RowMask
from tirazh.pipeline.input.schemas.arrow_types import with_metadata
from tirazh.pipeline.input.schemas.planned_schema import refuse_unwritable, with_metadata_of
from tirazh.pipeline.input.unify import count_directory_text, unify
from tirazh.pipeline.planned_files import Continued, PlacedPart, PlannedFile
from tirazh.pipeline.prompts.row_sample import choose_sample, digest_of
from tirazh.pipeline.resolve import ResolvedJob, resolve_job
from tirazh.pipeline.settings import fingerprint_of
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec, JobSpec
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import join, keep_trying

# In the identity of a job with `calibrate: batch`: which rows calibrate it.
CALIBRATION_SAMPLE = "calibration_sample"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything about a job that is decided before it starts.

    `schema` has the columns of the input, unified over its files, and `unified` sentences about that.
    `passed_over` are sentences about files of the input that are not read. `overrides` are the input
    columns that set a row's own sampling parameters. `dtype` is "auto" until the job starts. `resolved`
    is None in a plan read from plan.json. `crossing` has the rows of a job without input files, or those
    that every row of the input is crossed with.
    `stored_id` is the id of a stored plan whose parts this plan continues although the versions of its input
    files differ; None otherwise.
    `placed` lists the parts of an output that has been added to; None if they are as `files` cuts them. `continued` is
    the plan before the last step that changed the output. A file that was delivered again is in `files` twice.
    """

    identity: dict[str, Any]
    fingerprint: str
    model_fingerprint: str
    examples_sha256: str | None
    dtype: DType
    seq_length: int
    schema: pa.Schema
    overrides: tuple[str, ...]
    files: tuple[PlannedFile, ...]
    estimated_tokens: int
    unified: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()
    resolved: ResolvedJob | None = None
    crossing: Crossing | None = None
    stored_id: str | None = None
    placed: tuple[PlacedPart, ...] | None = None
    continued: Continued | None = None

    @property
    def job(self) -> ResolvedJob:
        """What `plan_job` resolved. Only for plans that it returned."""
        assert self.resolved is not None, "a plan read from plan.json has not been resolved"
        return self.resolved

    @property
    def model(self) -> ModelSummary | None:
        """The model, or None in a plan read from plan.json."""
        return self.resolved.model if self.resolved is not None else None

    @cached_property
    def id(self) -> str:
        """The plan id: 32 hex digits of a SHA-256 over everything that determines rows and files.

        That is the identity of the spec, the model, the examples, the dtype, the sequence length, the
        overrides, and every input file with its version and its cuts. It changes with `dtype`, so it is
        final once "auto" is resolved (`with_dtype`).
        """
        if self.stored_id is not None:
            return self.stored_id
        content: dict[str, Any] = {
            "identity": self.identity,
            "model_fingerprint": self.model_fingerprint,
            "examples_sha256": self.examples_sha256,
            "dtype": self.dtype,
            "seq_length": self.seq_length,
            "overrides": list(self.overrides),
            "files": [
                [planned.file.key, planned.file.uri, planned.file.size, planned.file.version, list(planned.cuts)]
                for planned in self.files
            ],
        }
        if self.placed is not None:
            content["placed"] = [[each.index, each.total, each.plan_id, each.ranges] for each in self.placed]
            content["left_out"] = [each.left_out and each.left_out.to_json() for each in self.files]
            content["continued"] = self.continued and [self.continued.plan_id, self.continued.step]
        text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @cached_property
    def parts(self) -> list[Part]:
        """All parts, in input order."""
        if self.placed is not None:
            return [self._part(each) for each in self.placed]
        total = sum(len(planned.cuts) - 1 for planned in self.files)
        ranges = ((planned, *ends) for planned in self.files for ends in pairwise(planned.cuts))
        return [
            Part(index, total, planned.file, start, stop, self.id, planned.row_bytes, self.crossing)
            for index, (planned, start, stop) in enumerate(ranges)
        ]

    def _part(self, placed: PlacedPart) -> Part:
        ranges = []
        for number, start, stop in placed.ranges:
            planned = self.files[number]
            mask = planned.left_out.slice(start, stop) if planned.left_out is not None else None
            name = (placed.index, placed.total, planned.file, start, stop, placed.plan_id or self.id)
            ranges.append(Part(*name, planned.row_bytes, self.crossing, mask))
        return ranges[0] if len(ranges) == 1 else replace(ranges[0], pieces=tuple(ranges))

    @cached_property
    def part_of_index(self) -> dict[int, Part]:
        """The parts by the number in their names."""
        return {part.index: part for part in self.parts}

    @cached_property
    def current_files(self) -> dict[str, PlannedFile]:
        """The files by their URI; of one that was delivered again the last version."""
        return {planned.file.uri: planned for planned in self.files}

    def is_superseded(self, file: StoredFile) -> bool:
        """Whether a file of the plan was delivered again later: its rows are only in the output now."""
        return self.placed is not None and self.current_files[file.uri].file.version != file.version

    @property
    def left_out_rows(self) -> int:
        """The rows of the input that were left out, since the output has rows with their keys."""
        return sum(planned.left_out.count for planned in self.files if planned.left_out is not None)

    @property
    def has_files(self) -> bool:
        """Whether the job has an input; otherwise its rows are those of the crossing."""
        return self.crossing is None or bool(self.identity["input"])

    @property
    def rows(self) -> int:
        """The rows of the input that the output has."""
        if self.placed is not None:
            return sum(part.rows for part in self.parts)
        return sum(planned.cuts[-1] - planned.cuts[0] for planned in self.files)

    @property
    def rows_per_input_row(self) -> int:
        """How many rows of the output a row of the input has: its samples, where they are rows."""
        has_rows = self.identity.get("samples_as") == "rows"
        return int(self.identity["samples"]) if has_rows else 1

    @property
    def output_rows(self) -> int:
        """The rows of the output."""
        return self.rows * self.rows_per_input_row

    def output_rows_of(self, part: Part) -> int:
        """The rows of the file of a part."""
        return part.rows * self.rows_per_input_row

    def summary(self) -> dict[str, Any]:
        """The plan in figures, for the console and for `--json`."""
        sizes = [part.rows for part in self.parts]
        return {
            "kind": self.identity["kind"],
            "files": len(self.files) if self.has_files and self.rows else 0,
            **(self.crossing.summary() if self.crossing is not None else {}),
            "rows": self.rows,
            "output_rows": self.output_rows,
            "parts": len(sizes),
            "rows_per_part": f"{min(sizes)}–{max(sizes)}",
            "estimated_tokens": self.estimated_tokens,
            "weight_bytes": self.model.weight_bytes if self.model else None,
            "model": self.identity["model"],
            "model_kind": self.model.kind if self.model else None,
            "model_fingerprint": self.model_fingerprint,
            "dtype": self.dtype,
            **({"invariant": self.identity["invariant"]} if "invariant" in self.identity else {}),
            "seq_length": self.seq_length,
            "row_settings_from_columns": list(self.overrides),
            "fingerprint": self.fingerprint,
        }


def plan_job(spec: JobSpec, crossing: Crossing | None = None) -> Plan:
    """Inspect the model, list the input, read its footers and cut it into parts.

    `crossing` replaces that of the spec: it has the same lists and other rows of each cell.
    Raises RequestError or one of its subclasses (CheckpointError, InputError, OutputError).
    """
    job = resolve_job(spec)
    if crossing is not None:
        job = replace(job, crossing=crossing)
    check_split(job.model.num_attention_heads, spec.tensor_parallel)
    if job.model.foreign is not None:
        check_tensor_parallel(job.model.foreign.values, spec.tensor_parallel)
    if spec.invariant is not None:
        check_invariant(job.model.config, spec.tensor_parallel)
    # Checked before the input is listed, which may take long.
    _refuse_output_in_input(job)
    texts = tuple(job.source.columns.values())
    footers, passed_over = _read_footers(spec, job, texts)
    crossing = job.crossing if job.inputs else None
    each = crossing.num_rows if crossing is not None else 1
    taken = take_rows(footers, spec.limit and -(-spec.limit // each))
    if not taken:
        taken = [_without_rows(spec, job, footers)]
    # The columns are those of the files that are taken, which the plan id names.
    unified = unify(taken, range_reader(job.storage))
    if spec.limit is not None:
        unify(footers)  # finds a conflict behind the limit before the whole input is run
    columns = with_metadata_of(unified.schema, [(show_uri(footer.file.uri), footer.schema) for footer in taken])
    if crossing is not None:
        check_vary(crossing.names, spec, columns)
        columns = with_metadata([*columns, *crossing.schema], columns.metadata)
    check_columns(columns, spec, job.source)
    refuse_unwritable(columns)
    if isinstance(spec, GenerateSpec) and used_setting(spec) is not None:
        check_constraint(spec, load_tokenizer(job.model.tokenizer_dir, job.model_directory))
    taken = count_directory_text(with_decoded_sizes(job.storage, taken, text_columns=texts), columns, texts)
    if crossing is not None and any(footer.rows for footer in taken):
        taken = take_rows(cross_footers(taken, crossing, text_columns=texts), spec.limit)
    cost = row_cost(spec)
    plan = Plan(
        identity=job.identity,
        fingerprint=fingerprint_of(job.identity),
        model_fingerprint=job.model.fingerprint,
        examples_sha256=job.examples_sha256,
        dtype=spec.dtype,
        seq_length=job.seq_length,
        schema=columns,
        overrides=override_columns(columns) if spec.kind == "generate" else (),
        files=tuple(cut_files(taken, spec, cost)),
        estimated_tokens=count_tokens(taken, cost),
        unified=unified.lines,
        passed_over=passed_over,
        resolved=job,
        crossing=job.crossing,
    )
    return _with_sample(plan) if isinstance(spec, ClassifySpec) and spec.calibrate == "batch" else plan


def _with_sample(plan: Plan) -> Plan:
    """Choose the rows of `calibrate: batch`, in one pass over the input. They are part of the job's identity."""
    job = plan.job
    columns = list(dict.fromkeys(job.source.columns.values()))
    sample = choose_sample(
        plan.parts,
        columns,
        lambda part: keep_trying(lambda: read_rows(part, job.storage, plan.schema, only=columns)),
    )
    identity = plan.identity | {CALIBRATION_SAMPLE: digest_of(sample)}
    return replace(plan, identity=identity, fingerprint=fingerprint_of(identity), resolved=replace(job, sample=sample))


def _read_footers(spec: JobSpec, job: ResolvedJob, text_columns: Sequence[str]) -> tuple[list[Footer], tuple[str, ...]]:
    """The footers of the input, and sentences about files that are not read."""
    if job.crossing is not None and not job.inputs:
        check_vary(job.crossing.names, spec)
        return [footer_of(job.crossing, limit=spec.limit, text_columns=text_columns)], ()
    found = find_inputs(job.storage, job.inputs, allow_empty=spec.allow_empty)
    return read_footers(job.storage, found.files, text_columns=text_columns), found.notes


def _without_rows(spec: JobSpec, job: ResolvedJob, footers: Sequence[Footer]) -> Footer:
    """The input of a job without rows, if it may have none. Raises InputError if it may not."""
    if not spec.allow_empty:
        raise InputError(
            f"the input has no rows: all of its {len(footers)} files are empty tables; with --allow-empty it gives an "
            "empty output"
        )
    columns = unify(footers, range_reader(job.storage)).schema if footers else None
    gold = [question.gold_column for question in spec.asked] if isinstance(spec, ClassifySpec) else []
    varied = job.crossing.names if job.crossing is not None else ()
    texts = [name for name in job.source.columns.values() if name not in varied]
    return empty_footer(columns, [*texts, *(name for name in gold if name is not None)])


def row_cost(spec: JobSpec) -> RowCost:
    """The work per row of a job besides its prompt."""
    return RowCost(spec.max_new_tokens * spec.samples) if isinstance(spec, GenerateSpec) else RowCost()


def cut_files(
    footers: Sequence[Footer], spec: JobSpec, cost: RowCost, left_out: Mapping[str, RowMask] | None = None
) -> list[PlannedFile]:
    """Cut files into parts. `left_out` has the rows that are left out, by the URIs of the files."""
    masks = [(left_out or {}).get(footer.file.uri) for footer in footers]
    kept = [
        footer if mask is None else replace(footer, row_groups=kept_groups(footer, mask))
        for footer, mask in zip(footers, masks, strict=True)
    ]
    part_tokens = choose_part_tokens(count_tokens(kept, cost))
    return [
        PlannedFile(
            footer.file,
            (0, 0)
            if not footer.rows
            else tuple(cut_kept_rows(footer, mask, part_rows=spec.part_rows, part_tokens=part_tokens, cost=cost)),
            footer.row_bytes,
            mask,
        )
        for footer, mask in zip(footers, masks, strict=True)
    ]


def _refuse_output_in_input(job: ResolvedJob) -> None:
    for uri in job.inputs:
        if would_read(uri, join(job.output, part_name(0, 1, ""))):
            raise OutputError(
                f"output {show_uri(job.output)} lies inside the input {show_uri(uri)}, so the next run would "
                "read its own results; choose an output directory outside of the input"
            )


def of_another_job(plan: Plan, identity: dict[str, Any], fingerprint: str) -> Plan:
    """The plan of another job with the same parts: all of them have its id."""
    placed = None if plan.placed is None else tuple(replace(each, plan_id="") for each in plan.placed)
    return replace(plan, identity=identity, fingerprint=fingerprint, stored_id=None, placed=placed)


def with_dtype(plan: Plan, dtype: DType) -> Plan:
    """Return the plan with `dtype` decided."""
    return replace(plan, dtype=dtype)
