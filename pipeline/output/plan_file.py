"""`OUTPUT/_tirazh/plan.json`: stores the plan of a job, and decides whether a later run resumes that job."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from tirazh.errors import InputError, OutputError
from tirazh.pipeline.output.names import PLAN, OutputFiles
from tirazh.pipeline.plan import Plan, PlannedFile
from tirazh.pipeline.settings import describe_changed
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri

# Increase it when an older version could misread the file.
FORMAT = 1


def find_plan(output: OutputFiles, plan: Plan, *, overwrite: bool) -> Plan | None:
    """Return the stored plan if it is that of the same job, or None if `plan` starts a new one.

    Writes nothing. Raises OutputError if the directory contains another job's files (unless
    `overwrite` allows their removal) or files that tirazh did not write (never removed), or if the
    input has changed.
    """
    stored = read_plan(output)
    difference = _difference(stored, plan) if stored is not None else "its plan is missing" if output.parts() else None
    if stored is not None and difference is None:
        return stored
    output.refuse_foreign()
    # Foreign files are reported first, since --overwrite would not help against them.
    if difference is not None and not overwrite:
        raise OutputError(
            f"{show_uri(output.directory)} contains the output of another job: {difference}; give --overwrite "
            "to delete it first, or another --output"
        )
    return None


def claim_output(output: OutputFiles, plan: Plan, *, overwrite: bool) -> Plan:
    """Return the plan to follow: the stored plan of the same job, or `plan`.

    For a new job it removes the files of another one, if `overwrite` allows it. The caller must
    hold the lease of the output. Raises the errors of `find_plan`.
    """
    stored = find_plan(output, plan, overwrite=overwrite)
    if stored is None:
        output.clear()
    return stored or plan


def read_plan(output: OutputFiles) -> Plan | None:
    """Read the stored plan, or return None if there is none.

    Raises OutputError if it cannot be parsed.
    """
    try:
        data = output.storage.read(output.own(PLAN))
    except InputError:
        return None
    try:
        return _from_json(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError, pa.ArrowException) as error:
        raise OutputError(f"{show_uri(output.own(PLAN))} is damaged ({type(error).__name__}: {error})") from error


def write_plan(output: OutputFiles, plan: Plan) -> None:
    """Store the plan. From then on every run on this output follows it."""
    output.storage.write(output.own(PLAN), json.dumps(_to_json(plan), ensure_ascii=False, indent=1).encode())


def _difference(stored: Plan, plan: Plan) -> str | None:
    """Describe how `plan` differs from the stored plan; None if both are of the same job."""
    names = sorted(set(stored.identity) | set(plan.identity))
    changed = [name for name in names if stored.identity.get(name) != plan.identity.get(name)]
    if changed:
        return describe_changed(changed)
    if stored.model_fingerprint != plan.model_fingerprint:
        return f"the weights of the model {plan.identity['model']} have changed"
    if stored.examples_sha256 != plan.examples_sha256:
        return "the --examples file has changed"
    return _input_difference(stored, plan)


def _input_difference(stored: Plan, plan: Plan) -> str | None:
    before = {planned.file.uri: planned.file for planned in stored.files}
    now = {planned.file.uri: planned.file for planned in plan.files}
    for uri, file in before.items():
        if uri not in now:
            return f"the input file {show_uri(uri)} has been removed since the job started"
        if now[uri] != file:
            return f"the input file {show_uri(uri)} has changed since the job started"
    added = [uri for uri in now if uri not in before]
    return f"the input file {show_uri(added[0])} has been added since the job started" if added else None


def _to_json(plan: Plan) -> dict[str, Any]:
    return {
        "format": FORMAT,
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
        "rows": plan.rows,
        "parts": len(plan.parts),
        "estimated_tokens": plan.estimated_tokens,
        "files": [
            [planned.file.uri, planned.file.key, planned.file.size, planned.file.version, list(planned.cuts)]
            for planned in plan.files
        ],
    }


def _from_json(values: Mapping[str, Any]) -> Plan:
    if values["format"] != FORMAT:
        raise ValueError(f"it was written by another version of tirazh, with format {values['format']}")
    if not isinstance(values["identity"], dict):
        raise TypeError("its identity is not a mapping")
    return Plan(
        identity=values["identity"],
        fingerprint=values["fingerprint"],
        model_fingerprint=values["model_fingerprint"],
        examples_sha256=values["examples_sha256"],
        dtype=values["dtype"],
        seq_length=values["seq_length"],
        schema=pa.ipc.read_schema(pa.py_buffer(base64.b64decode(values["arrow_schema"]))),
        overrides=tuple(values["overrides"]),
        files=tuple(
            PlannedFile(StoredFile(uri, key, size, version), tuple(cuts))
            for uri, key, size, version, cuts in values["files"]
        ),
        estimated_tokens=values["estimated_tokens"],
    )
