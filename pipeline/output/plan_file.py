"""`OUTPUT/_tirazh/plan.json`: the plan as it was when the job began, and what that means for a job that comes later.

Called by `build.py` before any replica is started, and by `output/ledger.py` to check an output against its plan.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from tirazh.errors import InputError, OutputError
from tirazh.pipeline.output.names import PLAN, OutputFiles
from tirazh.pipeline.plan import Plan, PlannedFile
from tirazh.pipeline.spec import flag_name
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri

FORMAT = 1


def find_plan(output: OutputFiles, plan: Plan, *, overwrite: bool) -> Plan | None:
    """The plan this output was begun with, if that is the same job; None where `plan` is to be followed. Only looks.

    Raises OutputError when the directory holds another job's work (unless `overwrite`, which allows its removal), files
    that are not ours (which are never removed), or when the input has changed since.
    """
    begun = read_plan(output)
    difference = _difference(begun, plan) if begun is not None else "its plan is gone" if output.parts() else None
    if begun is not None and difference is None:
        return begun
    output.refuse_foreign()
    if difference is not None and not overwrite:
        raise OutputError(
            f"{show_uri(output.directory)} holds the work of another job: {difference}; give --overwrite "
            "to remove it first, or another --output"
        )
    return None


def claim_output(output: OutputFiles, plan: Plan, *, overwrite: bool) -> Plan:
    """The plan to follow, as `find_plan` finds it, with another job's work removed where `overwrite` allows it. To be
    called by whoever holds the output's lease."""
    begun = find_plan(output, plan, overwrite=overwrite)
    if begun is None:
        output.clear()
    return begun or plan


def read_plan(output: OutputFiles) -> Plan | None:
    """The plan of this output, or None where there is none. Raises OutputError when it cannot be understood."""
    try:
        data = output.storage.read(output.own(PLAN))
    except InputError:
        return None
    try:
        return _from_json(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError, pa.ArrowException) as error:
        raise OutputError(f"{show_uri(output.own(PLAN))} is damaged ({type(error).__name__}: {error})") from error


def write_plan(output: OutputFiles, plan: Plan) -> None:
    """Write the plan down; from here on it is the authority for this output."""
    output.storage.write(output.own(PLAN), json.dumps(_to_json(plan), ensure_ascii=False, indent=1).encode())


def _difference(begun: Plan, plan: Plan) -> str | None:
    """How `plan` is another job than the one begun, in words; None when it is the same."""
    names = sorted(set(begun.identity) | set(plan.identity))
    other = [name for name in names if begun.identity.get(name) != plan.identity.get(name)]
    if other:
        flags = ", ".join("the kind of job" if name == "kind" else flag_name(name) for name in other)
        return f"{flags} {'is' if len(other) == 1 else 'are'} not what that job had"
    if begun.model_fingerprint != plan.model_fingerprint:
        return f"the model {plan.identity['model']} has other weights now"
    if begun.examples_sha256 != plan.examples_sha256:
        return "the file of --examples has changed"
    return _input_difference(begun, plan)


def _input_difference(begun: Plan, plan: Plan) -> str | None:
    before = {planned.file.uri: planned.file for planned in begun.files}
    now = {planned.file.uri: planned.file for planned in plan.files}
    for uri, file in before.items():
        if uri not in now:
            return f"the input {show_uri(uri)} is gone since it began"
        if now[uri] != file:
            return f"the input {show_uri(uri)} has changed since it began"
    added = [uri for uri in now if uri not in before]
    return f"the input {show_uri(added[0])} is new since it began" if added else None


def _to_json(plan: Plan) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "fingerprint": plan.fingerprint,
        "identity": plan.identity,
        "model_fingerprint": plan.model_fingerprint,
        "examples_sha256": plan.examples_sha256,
        "dtype": plan.dtype,
        "seq_length": plan.seq_length,
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
        raise ValueError(f"written by another version of tirazh, format {values['format']}")
    if not isinstance(values["identity"], dict):
        raise TypeError("its identity is no mapping")
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
