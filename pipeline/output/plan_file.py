"""`_tirazh/plan.json`: stores the plan of a job, and decides whether a later run resumes that job.

A plan is created and never replaced. Without `--overwrite`, another job's output is refused. With it the
new job runs into a *staged* output, `OUTPUT/_tirazh/staged/`, which has its own plan; the old output stays
complete and readable meanwhile (`promotion.py`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tirazh.errors import InputError, OutputError
from tirazh.pipeline.crossing.crossing import Crossing
from tirazh.pipeline.input.changes import compare_inputs
from tirazh.pipeline.input.schemas.hive import Partition
from tirazh.pipeline.output.changed_input import continue_plan
from tirazh.pipeline.output.generations.adding import Adding
from tirazh.pipeline.output.generations.placed import placed_values, with_placed
from tirazh.pipeline.output.guarded import GuardedOutput
from tirazh.pipeline.output.leases.lease import LeaseToken
from tirazh.pipeline.output.names import PLAN, STEPS, OutputFiles
from tirazh.pipeline.output.seal import to_sealed_json
from tirazh.pipeline.plan import CALIBRATION_SAMPLE, Plan
from tirazh.pipeline.planned_files import PlannedFile
from tirazh.pipeline.settings import describe_changed
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import keep_trying

# Increase it when an older version could misread the file.
FORMAT = 4
# Of a plan with placed parts, which a version that knows none of them would take for damaged.
FORMAT_OF_PLACED = 5
_EARLIER_FORMATS = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a run writes, and the plan that it follows.

    `output` is the job's output, or its staged output if that of another job is to be replaced.
    `is_stored` tells whether `plan` was read from `output`; otherwise the run has to store it. `lines` are
    sentences about an input that has changed since the plan was stored. `added` are the files that a run with
    `--append` adds to the output once it is complete.
    """

    output: OutputFiles
    plan: Plan
    is_stored: bool
    is_staged: bool = False
    lines: tuple[str, ...] = ()
    added: tuple[StoredFile, ...] = ()

    @property
    def continues(self) -> bool:
        """Whether it is a staged output that continues the one above it, and does not replace it."""
        return self.is_staged and self.plan.continued is not None


def choose_target(output: OutputFiles, plan: Plan, *, overwrite: bool, adding: Adding | None = None) -> Target:
    """Decide whether a run of `plan` resumes a stored job, starts one, or stages one. Writes nothing.

    With `adding` a complete output may lack files of the input; they are `Target.added`.
    Raises OutputError if the directory contains another job's files (unless `overwrite` allows their
    replacement) or files that tirazh did not write (never removed), or if the input has changed.
    """
    stored, difference = _compare(output, plan, overwrite=overwrite, adding=adding)
    if stored is not None and difference is None:
        found = continue_plan(stored, plan, output, adding)
        if found.may_continue:
            return Target(output, found.plan, is_stored=True, lines=found.lines, added=found.added)
        if not overwrite:
            raise OutputError(found.refusal)
        difference = found.refusal
    output.refuse_foreign()
    if difference is None:
        return Target(output, plan, is_stored=False)
    # Foreign files are reported first, since --overwrite would not help against them.
    if not overwrite:
        raise OutputError(
            f"{show_uri(output.directory)} contains the output of another job: {difference}; give --overwrite to "
            "replace it once the new output is complete, or another --output"
        )
    stored, difference = _compare(output.staged, plan, overwrite=True)
    if stored is not None and difference is None and (found := continue_plan(stored, plan, output.staged)).may_continue:
        return Target(output.staged, found.plan, is_stored=True, is_staged=True, lines=found.lines)
    return Target(output.staged, plan, is_stored=False, is_staged=True)


def _compare(
    output: OutputFiles, plan: Plan, *, overwrite: bool, adding: Adding | None = None
) -> tuple[Plan | None, str | None]:
    """The stored plan, and how the job of `plan` differs from the one whose files are in `output`.

    The difference is None for the same job and for an output without files. A plan that cannot be read is
    an error, unless it may be replaced.
    """
    try:
        stored = read_plan(output)
    except OutputError as error:
        if not overwrite:
            raise
        return None, str(error)
    if stored is not None:
        return stored, job_difference(stored, plan, adding)
    holds_steps = STEPS in output.storage.directories(output.own())
    return None, "its plan is missing" if output.parts() or holds_steps else None


def read_plan(output: OutputFiles) -> Plan | None:
    """Read the stored plan, or return None if there is none.

    Raises OutputError if it cannot be parsed.
    """
    try:
        data = output.storage.read(output.own(PLAN))
    except InputError:
        return None
    try:
        values = json.loads(data)
        if values["format"] not in _EARLIER_FORMATS:
            return _from_json(values)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError, pa.ArrowException) as error:
        raise OutputError(
            f"{show_uri(output.own(PLAN))} is damaged ({type(error).__name__}: {error}); give --overwrite to make the "
            "output again and replace it, or another --output"
        ) from error
    raise OutputError(
        f"{show_uri(output.directory)} was written by an earlier version of tirazh, whose outputs this version can "
        "neither resume nor verify: give --overwrite to make it again and replace it, or another --output"
    )


def write_plan(output: OutputFiles, plan: Plan, token: LeaseToken | None = None) -> Plan:
    """Store the plan unless the output has one, and return the stored one. Every later run follows it.

    `token` is the lease under which it is written; None only for an output that no other run can see. Raises
    OutputError if the stored plan is that of another job.
    """
    data = to_sealed_json(plan_values(plan))
    if GuardedOutput(output, token).create(output.own(PLAN), data):
        return plan
    stored = keep_trying(lambda: read_plan(output))
    if stored is not None and stored.id == plan.id:
        return stored
    files = [] if stored is None else [planned.file for planned in stored.files]
    if stored is None or job_difference(stored, plan) or compare_inputs(files, [each.file for each in plan.files]):
        raise OutputError(f"{show_uri(output.directory)} has just been taken by another job; choose another --output")
    return stored


def job_difference(stored: Plan, plan: Plan, adding: Adding | None = None) -> str | None:
    """Describe how `plan` differs from the stored plan; None if both are of the same job.

    The files of the input are compared afterwards (`changed_input.py`). With `adding` the input may name other files.
    """
    names = sorted(set(stored.identity) | set(plan.identity))
    changed = [name for name in names if stored.identity.get(name) != plan.identity.get(name)]
    named = _named_files(plan)
    is_same = named == _named_files(stored) or (stored.placed is not None and named <= _named_files(stored))
    if "input" in changed and (is_same or (adding is not None and stored.has_files and plan.has_files)):
        changed.remove("input")  # the same files, named otherwise: a directory instead of a glob pattern
    if changed == [CALIBRATION_SAMPLE]:
        return "the input has other rows than before, and --calibrate batch takes its sample from them"
    # A stored dtype is decided, and "auto" accepts it.
    if plan.dtype not in ("auto", stored.dtype):
        changed.append("dtype")
    if changed:
        return describe_changed(changed)
    if stored.model_fingerprint != plan.model_fingerprint:
        return f"the weights of the model {plan.identity['model']} have changed"
    if stored.examples_sha256 != plan.examples_sha256:
        return "the --examples file has changed"
    return None


def _named_files(plan: Plan) -> set[str]:
    return {planned.file.uri for planned in plan.files}


def plan_values(plan: Plan) -> dict[str, Any]:
    """The values of plan.json, without its checksum."""
    return {
        "format": FORMAT if plan.placed is None else FORMAT_OF_PLACED,
        "plan_id": plan.id,
        "fingerprint": plan.fingerprint,
        "identity": plan.identity,
        "model_fingerprint": plan.model_fingerprint,
        "examples_sha256": plan.examples_sha256,
        "dtype": plan.dtype,
        "seq_length": plan.seq_length,
        # `columns` is for human readers. The serialised schema keeps the exact Arrow types.
        "columns": {field.name: str(field.type) for field in plan.schema},
        "arrow_schema": base64.b64encode(plan.schema.serialize().to_pybytes()).decode(),
        "overrides": list(plan.overrides),
        "unified": list(plan.unified),
        "passed_over": list(plan.passed_over),
        "rows": plan.rows,
        "rows_per_input_row": plan.rows_per_input_row,
        "parts": len(plan.parts),
        "estimated_tokens": plan.estimated_tokens,
        "files": [
            [
                planned.file.uri,
                planned.file.key,
                planned.file.size,
                planned.file.version,
                [list(pair) for pair in planned.file.partition],
                list(planned.cuts),
                planned.row_bytes,
            ]
            for planned in plan.files
        ],
        **({} if plan.crossing is None else {"crossing": plan.crossing.to_json()}),
        **({} if plan.placed is None else placed_values(plan)),
    }


def _from_json(values: Mapping[str, Any]) -> Plan:
    if values["format"] != (FORMAT_OF_PLACED if "placed" in values else FORMAT):
        raise ValueError(f"it was written by another version of tirazh, with format {values['format']}")
    if not isinstance(values["identity"], dict):
        raise TypeError("its identity is not a mapping")
    plan = Plan(
        identity=values["identity"],
        fingerprint=values["fingerprint"],
        model_fingerprint=values["model_fingerprint"],
        examples_sha256=values["examples_sha256"],
        dtype=values["dtype"],
        seq_length=values["seq_length"],
        schema=pa.ipc.read_schema(pa.py_buffer(base64.b64decode(values["arrow_schema"]))),
        overrides=tuple(values["overrides"]),
        unified=tuple(values["unified"]),
        files=tuple(
            PlannedFile(StoredFile(uri, key, size, version, _partition(pairs)), tuple(cuts), row_bytes)
            for uri, key, size, version, pairs, cuts, row_bytes in values["files"]
        ),
        estimated_tokens=values["estimated_tokens"],
        passed_over=tuple(values["passed_over"]),
        crossing=Crossing.from_json(values["crossing"]) if "crossing" in values else None,
    )
    if (
        plan.crossing is not None
        and not plan.has_files
        and [plan.crossing.digest] != [planned.file.version for planned in plan.files]
    ):
        raise ValueError("its crossing is not that of its parts")
    if "placed" in values:
        plan = with_placed(plan, values)
    if plan.id != values["plan_id"]:
        raise ValueError("its plan id is not that of its content")
    return plan


def _partition(pairs: Sequence[Sequence[Any]]) -> Partition:
    return tuple((name, value) for name, value in pairs)
