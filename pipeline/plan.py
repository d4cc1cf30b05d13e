"""What a job will do, found out before anything is started: input files, columns, parts, and the model's identity.

`plan_job` looks; it writes nothing and needs neither Ray nor torch. `output/plan_file.py` writes the plan down and
reads it
back: what is written there is the authority when a job is resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import pyarrow as pa

from tirazh.actors.messages import DType
from tirazh.errors import InputError, OutputError, RequestError
from tirazh.model.checkpoints.directory import ModelSummary, describe
from tirazh.model.config import check_split
from tirazh.pipeline.columns import check_columns, override_columns, text_columns
from tirazh.pipeline.input.files import list_inputs, would_read
from tirazh.pipeline.input.footers import Footer, check_same_schema, read_footers
from tirazh.pipeline.input.parts import (
    Part,
    Work,
    choose_part_tokens,
    count_tokens,
    cut_by_tokens,
    cut_evenly,
    part_name,
    take_rows,
)
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec, JobSpec
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, full_uri, join

_DEFAULT_SEQ_LENGTH = 2048


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """An input file and the row numbers where its parts begin, followed by where the last one ends."""

    file: StoredFile
    cuts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything about a job that is settled before it starts.

    `schema` is the input's. `overrides` names the input columns that set a row's own sampling. `model` is absent from
    a plan that was read back. `dtype` is "auto" until the job starts.
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
    model: ModelSummary | None = None

    @cached_property
    def parts(self) -> list[Part]:
        """All parts, in the order of the input."""
        total = sum(len(planned.cuts) - 1 for planned in self.files)
        pieces = ((planned.file, *ends) for planned in self.files for ends in pairwise(planned.cuts))
        return [Part(index, total, file, start, stop) for index, (file, start, stop) in enumerate(pieces)]

    @property
    def rows(self) -> int:
        return sum(planned.cuts[-1] - planned.cuts[0] for planned in self.files)

    def summary(self) -> dict[str, Any]:
        """The plan in figures, for people and for `--json`."""
        sizes = [part.rows for part in self.parts]
        return {
            "kind": self.identity["kind"],
            "files": len(self.files),
            "rows": self.rows,
            "parts": len(sizes),
            "rows_per_part": f"{min(sizes)}–{max(sizes)}",
            "estimated_tokens": self.estimated_tokens,
            "weight_bytes": self.model.weight_bytes if self.model else None,
            "model": self.identity["model"],
            "model_kind": self.model.kind if self.model else None,
            "model_fingerprint": self.model_fingerprint,
            "dtype": self.dtype,
            "seq_length": self.seq_length,
            "row_settings_from_columns": list(self.overrides),
            "fingerprint": self.fingerprint,
        }


def plan_job(spec: JobSpec) -> Plan:
    """Look at the model, the input's listing and its footers, and cut the input into parts.

    Raises CheckpointError, InputError or OutputError with one sentence about what cannot work.
    """
    model = describe(spec.model, spec.model_settings)
    check_split(model.num_attention_heads, spec.tensor_parallel)
    storage = Storage(spec.endpoint_url)
    _refuse_output_in_input(spec)
    files = list_inputs(storage, spec.input)
    footers = read_footers(storage, files, text_columns=text_columns(spec))
    columns = check_same_schema(footers)
    check_columns(columns, spec)
    taken = take_rows(footers, spec.limit)
    if not taken:
        raise InputError(f"the input has no rows: all {len(files)} files named are empty tables")
    work = _work(spec)
    return Plan(
        identity=spec.identity(),
        fingerprint=spec.fingerprint(),
        model_fingerprint=model.fingerprint,
        examples_sha256=_examples_sha256(spec, storage),
        dtype=spec.dtype,
        seq_length=_sequence_length(spec, model),
        schema=columns,
        overrides=override_columns(columns) if spec.kind == "generate" else (),
        files=tuple(_cut(taken, spec, work)),
        estimated_tokens=count_tokens(taken, work),
        model=model,
    )


def _sequence_length(spec: JobSpec, model: ModelSummary) -> int:
    """Tokens a sequence may hold. Raises RequestError when the model has fewer positions than were asked for."""
    if model.positions is not None and (spec.seq_length or 0) > model.positions:
        raise RequestError(f"--seq-length {spec.seq_length} is more than the model's {model.positions} positions")
    return spec.seq_length or model.positions or _DEFAULT_SEQ_LENGTH


def _work(spec: JobSpec) -> Work:
    return Work(spec.max_new_tokens * spec.samples) if isinstance(spec, GenerateSpec) else Work()


def _cut(footers: Sequence[Footer], spec: JobSpec, work: Work) -> list[PlannedFile]:
    part_tokens = choose_part_tokens(count_tokens(footers, work))
    return [
        PlannedFile(
            footer.file,
            tuple(
                cut_evenly(footer.rows, spec.part_rows)
                if spec.part_rows
                else cut_by_tokens(footer.row_groups, part_tokens, work)
            ),
        )
        for footer in footers
    ]


def _refuse_output_in_input(spec: JobSpec) -> None:
    output = full_uri(spec.output)
    for named in spec.input:
        if would_read(named, join(output, part_name(0, 1))):
            raise OutputError(
                f"output {show_uri(output)} lies inside the input {show_uri(named)}, so the next run would read its "
                "own results; choose an output beside it"
            )


def _examples_sha256(spec: JobSpec, storage: Storage) -> str | None:
    if not isinstance(spec, ClassifySpec) or spec.examples is None:
        return None
    return hashlib.sha256(storage.read(full_uri(spec.examples))).hexdigest()


def with_dtype(plan: Plan, dtype: DType) -> Plan:
    """The plan with its arithmetic settled."""
    return replace(plan, dtype=dtype)
