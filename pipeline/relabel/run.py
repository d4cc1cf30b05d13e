"""`tirazh relabel`: a new output with other answers, made from the stored probabilities of a finished one.

The new output is one like any other: a plan, parts with receipts, a manifest, `_SUCCESS`, under a lease. The same
command completes one that was interrupted. The source is only read.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError, JobError, OutputError
from tirazh.pipeline.columns import added_columns
from tirazh.pipeline.history.recorder import current_run, recording
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.schemas.arrow_types import READ_OPTIONS, restore
from tirazh.pipeline.output.assemble import OutputLayout
from tirazh.pipeline.output.guarded import GuardedOutput
from tirazh.pipeline.output.leases.lease import Lease, Tell, hold
from tirazh.pipeline.output.ledger import finish, finished_manifest, receipt_settings
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import read_plan, write_plan
from tirazh.pipeline.output.receipt import describe_part, read_footer, receipt_columns
from tirazh.pipeline.output.state import repair, survey
from tirazh.pipeline.output.write import MadePart, WriteConfig, WriteStep, to_parquet
from tirazh.pipeline.plan import Plan, of_another_job
from tirazh.pipeline.relabel.request import Relabelling
from tirazh.pipeline.relabel.rows import relabel_rows
from tirazh.pipeline.relabel.source import Source
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import full_uri, keep_trying

# Each thread holds a part several times: its file, its rows and the new file.
_THREADS = 2


@dataclass(frozen=True)
class _Target:
    """The output that is made: `plan` has the parts of the source under another id."""

    source: Source
    wanted: Relabelling
    spec: ClassifySpec
    plan: Plan
    output: OutputFiles

    @property
    def layout(self) -> OutputLayout:
        return OutputLayout(columns=self.plan.schema, added=added_columns(self.spec, self.plan.schema))


def relabel(source: Source, wanted: Relabelling, out: str, *, tell: Tell | None = None) -> dict[str, Any]:
    """Write the relabelled output to `out` and return its manifest; a finished one is returned at once.

    Raises OutputError for an `out` that holds anything else, JobError for a damaged source and if another run writes to
    `out`.
    """
    target = _target(source, wanted, out)
    _refuse_other(target)
    settings = receipt_settings(target.spec)
    manifest = finished_manifest(target.plan, target.output, settings)
    if manifest is not None:
        return manifest
    with (
        hold(target.output, lease_s=target.spec.lease_s, tell=tell) as lease,
        recording(target.output, lease, kind="relabel") as run,
    ):
        lease.confirm()
        lease.announce(target.plan.id)
        _refuse_other(target)
        manifest = _make(target, lease)
        run.finish(manifest)
        return manifest


def _make(target: _Target, lease: Lease) -> dict[str, Any]:
    start = time.monotonic()
    guarded = GuardedOutput(target.output, lease.token)
    write_plan(target.output, target.plan, lease.token)
    guarded.reopen()
    state = survey(target.plan, target.output, receipt_settings(target.spec))
    current_run().found(target.plan, target.output, state)
    repair(state, target.plan, guarded)
    sums = {part["name"]: part["sha256"] for part in target.source.found.manifest["parts"]}
    with ThreadPoolExecutor(_THREADS) as threads:
        for _ in threads.map(lambda part: _make_part(target, part, sums, lease), state.remaining):
            pass
    facts = current_run().times() | {
        "seconds": time.monotonic() - start,
        "resumed_parts": len(target.plan.parts) - len(state.remaining),
        "relabelled": target.wanted.facts(target.source),
    }
    return finish(target.plan, target.output, target.spec, facts, lease=lease)


def _make_part(target: _Target, part: Part, sums: Mapping[str, str], lease: Lease) -> None:
    """Write one part of the new output from that of the source."""
    name = target.source.plan.part_of_index[part.index].name
    uri = target.source.found.files.part(name)
    data = keep_trying(partial(target.source.found.files.storage.read, uri))
    if hashlib.sha256(data).hexdigest() != sums[name]:
        raise JobError(f"{show_uri(uri)} was changed since it was written; `tirazh verify` says more about its output")
    footer = read_footer(data)[1] | {"plan_id": target.plan.id}
    layout, settings = target.layout, receipt_settings(target.spec)
    table = pq.ParquetFile(pa.BufferReader(data), **READ_OPTIONS).read()
    for change in target.wanted.changes:
        table = relabel_rows(table, change)
    kept = restore(table, layout.columns)
    added = [table.column(field.name).cast(field.type) for field in layout.added]
    table = pa.Table.from_arrays([*kept.columns, *added], schema=layout.schema)
    made = to_parquet(table, footer=footer, columns=layout.columns)
    receipt = describe_part(table.select(receipt_columns(table.column_names, settings)), made, footer, settings)
    config = WriteConfig(
        output=target.output,
        layout=layout,
        parts={part.index: replace(MadePart.of(part), input_version=footer["input_version"])},
        tokenizer_dir="",
        receipts=settings,
        lease=lease.token,
    )
    WriteStep(config).store(receipt, made)


def _target(source: Source, wanted: Relabelling, out: str) -> _Target:
    output = OutputFiles(source.found.files.storage, full_uri(out))
    here, there = output.directory.rstrip("/") + "/", source.found.files.directory.rstrip("/") + "/"
    if here.startswith(there) or there.startswith(here):
        raise OutputError(
            f"--out {show_uri(output.directory)} and {source.place} lie in each other; name a new directory"
        )
    identity, fingerprint = wanted.identity(source)
    plan = of_another_job(source.plan, identity, fingerprint)
    return _Target(source, wanted, replace(wanted.spec(source), output=out), plan, output)


def _refuse_other(target: _Target) -> None:
    """Raise OutputError if the directory holds another output than the one that is made."""
    place = show_uri(target.output.directory)
    try:
        stored = read_plan(target.output)
    except InputError:
        stored = None
    if stored is not None and stored.id != target.plan.id:
        raise OutputError(f"--out {place} contains another output; name a new directory")
    target.output.refuse_foreign()
    if stored is None and target.output.parts():
        raise OutputError(f"--out {place} contains parts of an output without a plan; name a new directory")
