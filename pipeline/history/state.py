"""The state of one output, read from its files alone: no cluster is asked, and nothing is changed."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from tirazh.errors import InputError, OutputError
from tirazh.pipeline.history.ages import age_text
from tirazh.pipeline.history.find_outputs import is_output
from tirazh.pipeline.history.start_time import parse_utc, utc_text
from tirazh.pipeline.output.leases.record import LeaseRecord, epochs, parse, read_epoch, wall_age
from tirazh.pipeline.output.ledger import read_manifest
from tirazh.pipeline.output.names import MANIFEST, SUCCESS, OutputFiles
from tirazh.pipeline.output.plan_file import read_plan
from tirazh.pipeline.output.runs_file import Run, last_success, read_runs
from tirazh.pipeline.output.unfinished import read_failure
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import is_remote

State = Literal["complete", "running", "failed", "unfinished", "missing"]
# A run on another machine is alive while its last heartbeat, by the clocks of both machines, is younger than this
# many times its timeout.
_LATE_HEARTBEATS = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputStatus:
    """What an output says about itself.

    `rows_total` are the rows of the plan, None where the number is not known, and `rows_safe` those in finished parts.
    `last_success` is the end of the last run that ended well, and `age_s` the seconds since then. `owner` is the
    process that writes, if one does. `problem` says why the exit code is 1, "" if it is 0.
    """

    output: str
    state: State
    rows_safe: int
    rows_total: int | None
    last_success: str | None
    age_s: float | None
    last_run: Run | None
    owner: str | None
    failure: str | None
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The status as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


def output_status(files: OutputFiles, *, max_age_s: float | None = None) -> OutputStatus:
    """Read the state of an output. With `max_age_s` a last success that is older, or none, is a problem."""
    if not is_output(files.storage, files.directory):
        shown = show_uri(files.directory)
        return _status(files, "missing", problem=f"there is no output at {shown}: no run has begun there")
    runs = read_runs(files)
    record = _holder(files)
    is_running = record is not None and is_alive(record)
    failure = (read_failure(files) or {}).get("reason")
    last = runs[-1] if runs else None
    if failure is None and last is not None and last["outcome"] == "failure":
        failure = str(last.get("sentence") or "") or None
    is_complete = is_finished(files)
    state: State = (
        "running" if is_running else "complete" if is_complete else "failed" if failure is not None else "unfinished"
    )
    success = success_time(files, runs)
    age_s = None if success is None else max(0.0, (datetime.now(UTC) - success).total_seconds())
    safe, total = _rows(files, is_complete=is_complete)
    return _status(
        files,
        state,
        rows_safe=safe,
        rows_total=total,
        last_success=None if success is None else utc_text(success),
        age_s=None if age_s is None else round(age_s, 1),
        last_run=last,
        owner=str(record) if is_running else None,
        failure=None if is_complete and not is_running else failure,
        problem=_problem(state, failure, age_s, max_age_s),
    )


def is_alive(record: LeaseRecord) -> bool:
    """Whether the holder of a lease still runs: exactly on this machine, by its last heartbeat on another one."""
    if record.released:
        return False
    if record.process.is_here:
        return record.process.is_alive
    return wall_age(record) <= _LATE_HEARTBEATS * record.lease_s


def is_finished(files: OutputFiles) -> bool:
    """Whether the output is complete: it says so to readers, or it holds the model that its training wrote."""
    return files.is_complete() or read_training_manifest(files) is not None


def read_training_manifest(files: OutputFiles) -> dict[str, Any] | None:
    """Read the manifest of the training whose model, or adapter, is in the output; None when there is none."""
    names = files.storage.names(files.directory)
    if "config.json" not in names and "adapter_config.json" not in files.storage.names(files.part("adapter")):
        return None
    try:
        values = json.loads(files.storage.read(files.own(MANIFEST)))
    except (InputError, ValueError):
        return None
    return values if isinstance(values, dict) and values.get("kind") == "finetune" else None


def success_time(files: OutputFiles, runs: list[Run]) -> datetime | None:
    """When the output was last completed or found complete; None if it is not complete, or does not say.

    Outputs of earlier versions have no history. On a disk their `_SUCCESS` has a time.
    """
    if not is_finished(files):
        return None
    run = last_success(runs)
    for text in (run["end"] if run is not None else None, (read_manifest(files) or {}).get("end")):
        with suppress(ValueError):
            if isinstance(text, str):
                return parse_utc(text)
    if is_remote(files.directory) or not files.is_complete():
        return None
    return datetime.fromtimestamp(os.stat(files.part(SUCCESS)).st_mtime, UTC)


def _status(files: OutputFiles, state: State, **values: Any) -> OutputStatus:
    nothing: dict[str, Any] = {"rows_safe": 0, "problem": ""}
    names = ("rows_total", "last_success", "age_s", "last_run", "owner", "failure")
    return OutputStatus(output=show_uri(files.directory), state=state, **(nothing | dict.fromkeys(names) | values))


def _holder(files: OutputFiles) -> LeaseRecord | None:
    highest = max(epochs(files), default=0)
    return parse(read_epoch(files, highest)) if highest else None


def _rows(files: OutputFiles, *, is_complete: bool) -> tuple[int, int | None]:
    manifest = (read_manifest(files) or read_training_manifest(files)) if is_complete else None
    if manifest is not None and isinstance(manifest.get("rows"), int):
        return manifest["rows"], manifest["rows"]
    for place in (files.staged, files):  # with --overwrite the new job is staged until it is complete
        try:
            plan = read_plan(place)
        except OutputError:
            continue
        if plan is not None:
            existing = place.parts()
            return sum(plan.output_rows_of(part) for part in plan.parts if part.name in existing), plan.output_rows
    return 0, None


def _problem(state: State, failure: str | None, age_s: float | None, max_age_s: float | None) -> str:
    if state == "failed":
        return failure or "the last run failed"
    if state == "unfinished":
        return "the output is not finished, and no run writes to it; run its command again"
    if max_age_s is None:
        return ""
    if age_s is None:
        return "no run has ended well yet" if state == "running" else "it does not say when its last run ended well"
    if age_s > max_age_s:
        return f"the last success is {age_text(age_s)} old, and --max-age is {age_text(max_age_s)}"
    return ""
