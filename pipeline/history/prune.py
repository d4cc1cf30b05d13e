"""Removes old outputs below a directory.

An output is removed only if it is complete, is old enough, holds nothing that tirazh did not write, and no run holds
its lease. This run takes the lease while it removes, so a run that starts at the same time is refused. `_SUCCESS` goes
first: a reader sees no complete output that misses rows. A removal that was killed is continued by the next one, by the
mark that it left.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from tirazh.errors import InputError, RequestError, TirazhError
from tirazh.pipeline.history.find_outputs import is_link, is_output, outputs_below
from tirazh.pipeline.history.state import is_alive, success_time
from tirazh.pipeline.output.guarded import GuardedOutput
from tirazh.pipeline.output.leases.lease import Lease, hold
from tirazh.pipeline.output.leases.record import epochs, parse, read_epoch
from tirazh.pipeline.output.ledger import read_manifest
from tirazh.pipeline.output.names import DROPPED, LEASES, OWN, SUCCESS, OutputFiles
from tirazh.pipeline.output.runs_file import read_runs
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, full_uri, is_remote

PRUNING = "pruning.json"
_LEASE_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """One output: whether it was removed (or would be), how old it is, and why it is kept, "" if it is not.

    `age_s` counts from the end of its last success, None if that is unknown.
    """

    output: str
    removed: bool
    age_s: float | None
    reason: str


def prune(directory: str, *, keep_s: float, dry_run: bool, endpoint_url: str | None = None) -> Iterator[Pruned]:
    """Remove the outputs below `directory` whose last success is older than `keep_s` seconds; yield each of them.

    Outputs that are kept are yielded too, with the reason. Raises RequestError for a directory that does not exist, and
    for one that is itself an output.
    """
    storage = Storage(endpoint_url)
    root = full_uri(directory)
    if not is_remote(root):
        root = os.path.realpath(root)
        if not os.path.isdir(root):
            raise RequestError(f"{root} is not a directory; name the directory that holds the outputs")
    if is_output(storage, root):
        raise RequestError(f"{show_uri(root)} is itself an output; name the directory that holds the outputs")
    for files in outputs_below(root, storage):
        yield _prune_one(files, keep_s, dry_run=dry_run)


def _prune_one(files: OutputFiles, keep_s: float, *, dry_run: bool) -> Pruned:
    age_s: float | None = None
    try:
        age_s, reason = _reason_to_keep(files, keep_s)
        if not reason and not dry_run:
            with hold(files, lease_s=_LEASE_S) as lease:
                lease.confirm()
                # Looked at again: another run may have written since.
                age_s, reason = _reason_to_keep(files, keep_s, own=lease)
                if not reason:
                    _remove(files, lease)
            if not reason:
                _remove_lease(files, lease)
    except TirazhError as error:
        reason = str(error)
    return Pruned(output=show_uri(files.directory), removed=not reason, age_s=age_s, reason=reason)


def _reason_to_keep(files: OutputFiles, keep_s: float, own: Lease | None = None) -> tuple[float | None, str]:
    """The age of an output, and why it is kept, "" if it is to be removed. `own` is the lease that this run holds."""
    if is_link(files.own()):
        return None, f"its {OWN} is a link"
    highest = max(epochs(files), default=0)
    record = parse(read_epoch(files, highest)) if highest else None
    if own is None and highest and (record is None or is_alive(record)):
        return None, f"a run writes to it ({record or 'unknown owner'})"
    before = highest - 1 if own is not None else highest
    is_pruning = _is_being_pruned(files, before)
    if not files.is_complete() and not is_pruning:
        return None, "it is not complete"
    foreign = _foreign(files)
    if foreign:
        return None, f"it holds files that tirazh did not write ({min(foreign)})"
    if is_pruning:
        return None, ""
    manifest = read_manifest(files)
    if manifest is None or manifest.get("plan_id") != files.completed_plan():
        return None, f"its manifest is missing or damaged, so it may not be an output; see {OWN}"
    ended = success_time(files, read_runs(files))
    if ended is None:
        return None, "it does not say when it was completed"
    age_s = max(0.0, (datetime.now(UTC) - ended).total_seconds())
    return age_s, "" if age_s > keep_s else "it is young enough"


def _foreign(files: OutputFiles) -> list[str]:
    """The names of files and directories beside the parts that are not those of an output, also hidden ones."""
    ours = {SUCCESS, *(uri.rpartition("/")[2] for uri in files.temporary_files())}
    names = [name for name in files.storage.names(files.directory) if not files.is_part_name(name) and name not in ours]
    return [*names, *(files.storage.directories(files.directory) - {OWN, DROPPED})]


def _is_being_pruned(files: OutputFiles, last_epoch: int) -> bool:
    """Whether a removal began, and no run has held the output since."""
    try:
        mark = json.loads(files.storage.read(files.own(PRUNING)))
        return last_epoch in (0, mark["epoch"]) and not files.is_complete()
    except (InputError, ValueError, KeyError, TypeError):
        return False


def _remove(files: OutputFiles, lease: Lease) -> None:
    """Remove all but the lease: `_SUCCESS`, then the rows, then what describes them."""
    output = GuardedOutput(files, lease.token)
    output.write(files.own(PRUNING), json.dumps({"epoch": lease.token.epoch}).encode())
    output.reopen()
    storage = files.storage
    for name in sorted(storage.names(files.directory)):
        output.remove(files.part(name))
    if DROPPED in storage.directories(files.directory):
        output.remove(files.part(DROPPED), recursive=True)
    for name in sorted(storage.directories(files.own()) - {LEASES}):
        output.remove(files.own(name), recursive=True)
    for name in sorted(set(storage.names(files.own())) - {PRUNING}):
        output.remove(files.own(name))


def _remove_lease(files: OutputFiles, lease: Lease) -> None:
    """Remove the lease that this run has released, and the directories. A run that took the next one keeps its own."""
    files.storage.remove(files.lease_file(lease.token.epoch))
    files.storage.remove(files.own(PRUNING))
    if is_remote(files.directory):
        return
    for uri in (files.leases, files.own(), files.directory):
        with suppress(OSError):  # not empty: another run works here
            os.rmdir(uri)
