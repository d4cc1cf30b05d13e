"""Promotion: a staged output that is complete replaces the output of the other job, or is added to it.

`--overwrite` makes the new output in `OUTPUT/_tirazh/staged/`, and a step that continues an output (`generations/`) its
new parts. Its `_SUCCESS` is the commit record: before it
exists, the old output is untouched; after it exists, every run on this output continues the promotion
first. Each step may be repeated, so a promotion may be interrupted anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tirazh.errors import OutputError
from tirazh.pipeline.output.guarded import GuardedOutput
from tirazh.pipeline.output.ledger import read_manifest
from tirazh.pipeline.output.names import (
    CARD,
    FAILURE,
    HEAD,
    MANIFEST,
    PLAN,
    RECEIPTS,
    REPORT,
    RESPONSES,
    STAGED,
    SUCCESS,
    OutputFiles,
    receipt_name,
)
from tirazh.pipeline.output.plan_file import read_plan
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.storage.filesystem import keep_trying

# A store that cannot copy sends each file through this process.
_THREADS = 4


def pending_plan(output: OutputFiles) -> Plan | None:
    """The plan of a complete staged output whose promotion has not ended, or None.

    A staged output whose plan cannot be read, or is not the one that `_SUCCESS` names, is never promoted; a later
    run discards it.
    """
    completed = output.staged.completed_plan()
    if completed is None:
        return None
    try:
        plan = read_plan(output.staged) or read_plan(output)
    except OutputError:
        return None
    return plan if plan is not None and plan.id == completed else None


def promote(output: GuardedOutput, plan: Plan) -> None:
    """Replace the files of the old output by those of the staged output of `plan`, and write `_SUCCESS`.

    A reader sees the old output without `_SUCCESS` and with fewer and fewer parts, then the new parts, then
    `_SUCCESS`; never parts of both. Parts of the old output that are in `plan` stay as they are.
    """
    files, staged = output.files, output.files.staged
    own = keep_trying(lambda: staged.storage.names(staged.own()))
    # The staged plan is moved last, so without it all other files have been moved.
    if PLAN in own or not keep_trying(files.is_complete):
        output.reopen()
        parts, receipts = keep_trying(staged.parts), keep_trying(staged.receipts)
        _remove_old(output, plan)
        _each(lambda name: output.move(staged.part(name), files.part(name)), parts)
        _each(lambda name: output.move(staged.own(RECEIPTS, name), files.own(RECEIPTS, name)), receipts)
        for name in (HEAD, CARD, RESPONSES, MANIFEST, REPORT, PLAN):
            if name in own:
                output.move(staged.own(name), files.own(name))
        # Rows that were answered again may still have more errors than the job allows; then it has failed, as before.
        if is_within_budget(keep_trying(lambda: read_manifest(files))):
            output.write(files.part(SUCCESS), plan.id.encode())
    # Without its commit record the rest of the staged output is not promoted again.
    output.remove(staged.part(SUCCESS))
    discard_staged(output)


def is_within_budget(manifest: Mapping[str, Any] | None) -> bool:
    """Whether the rows of an output have no more errors than its job allows."""
    try:
        values = manifest or {}
        return int(values["errors"]) <= float(values["spec"]["max_error_rate"]) * int(values["rows"])
    except (KeyError, TypeError, ValueError):
        return True


def discard_staged(output: GuardedOutput) -> None:
    """Remove everything in the staged output."""
    if STAGED in keep_trying(lambda: output.files.storage.directories(output.files.own())):
        output.remove(output.files.own(STAGED), recursive=True)


def _remove_old(output: GuardedOutput, plan: Plan) -> None:
    """Remove the parts and receipts of the old job, the reason of its failure, and temporary files."""
    files = output.files
    parts = {part.name for part in plan.parts}
    receipts = {receipt_name(name) for name in parts}
    _each(output.remove, [files.part(name) for name in keep_trying(files.parts) if name not in parts])
    old_receipts = [name for name in keep_trying(files.receipts) if name not in receipts]
    _each(output.remove, [files.own(RECEIPTS, name) for name in old_receipts])
    _each(output.remove, keep_trying(files.temporary_files))
    if "head" not in plan.identity:
        output.remove(files.own(HEAD))
    if FAILURE in keep_trying(lambda: files.storage.names(files.own())):
        output.remove(files.own(FAILURE))


def _each(action: Callable[[str], None], names: Collection[str]) -> None:
    if len(names) < 2:
        for name in names:
            action(name)
        return
    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(action, sorted(names)))
