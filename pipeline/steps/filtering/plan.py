"""The plan of a filter step: one part for every part of the step before, which is known by its SHA-256."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from tirazh.errors import OutputError
from tirazh.pipeline.output.guarded import GuardedOutput
from tirazh.pipeline.output.names import JUDGED, OWN, PLAN, RECEIPTS, SIGNATURES, OutputFiles, receipt_name
from tirazh.pipeline.output.plan_file import read_plan, write_plan
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.planned_files import PlannedFile
from tirazh.pipeline.settings import describe_changed, fingerprint_of
from tirazh.pipeline.steps.filtering.files import dropped_directory
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import join, keep_trying

LAYOUT = "layout"


def plan_filter(
    identity: dict[str, Any], columns: pa.Schema, manifest: Mapping[str, Any], files: tuple[PlannedFile, ...]
) -> Plan:
    """Plan a filter step over `files`. `manifest` is that of the finished step before it."""
    return Plan(
        identity=identity,
        fingerprint=fingerprint_of(identity),
        model_fingerprint=manifest["model_fingerprint"],
        examples_sha256=None,
        dtype=manifest["dtype"],
        seq_length=0,
        schema=columns,
        overrides=(),
        files=files,
        estimated_tokens=0,
    )


def refuse_another_job(output: OutputFiles, identity: Mapping[str, Any]) -> None:
    """Raise OutputError if the directory has the output of a job with another identity, or files of other programs."""
    stored = read_plan(output)
    if stored is None:
        output.refuse_foreign()
        difference = "its plan is missing" if output.parts() else None
    else:
        # How final parts are cut does not make another job.
        names = sorted((set(stored.identity) | set(identity)) - {LAYOUT})
        changed = [name for name in names if stored.identity.get(name) != identity.get(name)]
        difference = describe_changed(changed) if changed else None
    if difference is not None:
        raise OutputError(
            f"{show_uri(output.directory)} contains the output of another job: {difference}; give --overwrite to "
            "replace it, or another --output"
        )


def store_plan(output: GuardedOutput, plan: Plan) -> None:
    """Make `plan` the plan of the output, which is not complete from now on.

    The parts of an earlier plan are removed: rows of the steps before have changed, or --overwrite was given.
    """
    try:
        stored = keep_trying(lambda: read_plan(output.files))
    except OutputError:  # damaged, and --overwrite was given
        stored = None
    output.reopen()
    if stored is not None and stored.id == plan.id:
        return
    remove_other_parts(output, plan)
    output.remove(output.files.duplicates)
    output.remove(output.files.own(PLAN))
    write_plan(output.files, plan, output.token)


def remove_other_parts(output: GuardedOutput, plan: Plan) -> None:
    """Remove the files of parts that are not of `plan`, and temporary files."""
    files, names = output.files, {part.name for part in plan.parts}
    receipts = {receipt_name(name) for name in names}
    dropped = dropped_directory(files)
    found = [files.part(name) for name in keep_trying(files.parts) if name not in names]
    found += [files.own(RECEIPTS, name) for name in keep_trying(files.receipts) if name not in receipts]
    found += [join(dropped, name) for name in _names(files, dropped) if name not in names]
    for own in (JUDGED, SIGNATURES):
        found += [files.own(own, name) for name in _names(files, join(files.directory, OWN, own)) if name not in names]
    for uri in [*found, *keep_trying(files.temporary_files)]:
        output.remove(uri)


def _names(files: OutputFiles, directory: str) -> list[str]:
    return sorted(keep_trying(lambda: files.storage.names(directory)))
