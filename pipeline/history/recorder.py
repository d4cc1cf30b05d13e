"""Records a run in the history of its output, from its begin to its end, also where it fails or is killed.

The line is written when the run knows its plan, with `end` null, and again at the end. The next run closes the line of
a run that was killed, as `unknown`: what that one made follows from the parts that are there now and were not before.
Everything is written under the lease. A history that cannot be written is no reason to fail.
"""

from __future__ import annotations

import getpass
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tirazh.errors import TirazhError
from tirazh.pipeline.history.start_time import StartTime, parse_utc, take_start, utc_text
from tirazh.pipeline.output.leases.lease import Lease, hold
from tirazh.pipeline.output.leases.record import epochs, parse, read_epoch
from tirazh.pipeline.output.names import RUNS, OutputFiles
from tirazh.pipeline.output.runs_file import Run, read_runs, runs_text
from tirazh.pipeline.output.state import OutputState
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.storage.filesystem import Storage
from tirazh.pipeline.storage.secrets import redact

if TYPE_CHECKING:
    from tirazh.pipeline.execution.progress import OnProgress

logger = logging.getLogger(__name__)

MAX_SENTENCE = 1_000
# What a run makes; `before` in its line has the same numbers of the rows that were there already.
COUNTS = ("rows", "parts", "errors", "tokens")
_NAMES = {"rows": "rows_made", "parts": "parts_made", "errors": "errors", "tokens": "tokens"}
_SIGINT, _SIGTERM = 2, 15

_current: ContextVar[Recorder | None] = ContextVar("tirazh_run", default=None)


@dataclass(kw_only=True)
class Recorder:
    """One run. Without a lease it is a part of another run, `parent`, which records what it made.

    `before` are the counts of what earlier runs had made, None until the plan is known. `adds_to_parent` is False for a
    job whose rows are not those of the parent's output, such as the embeddings of examples.
    """

    kind: str
    output: OutputFiles
    lease: Lease | None
    start: StartTime
    parent: Recorder | None = None
    collects: bool = False
    run_id: str = field(default_factory=lambda: uuid4().hex)
    plan_id: str | None = None
    before: dict[str, int] | None = None
    made: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    total: int = 0
    deaths: int = 0
    seconds_work: float = 0.0
    predicted: dict[str, Any] | None = None
    _target: tuple[Plan, OutputFiles] | None = None
    _last: Any = None
    _unclosed: set[str] = field(default_factory=set)
    _is_counted: bool = False

    def found(self, plan: Plan, files: OutputFiles, state: OutputState | None) -> None:
        """Say which plan the run follows, and what of it exists. Writes the line of the run, with its end open.

        A run may follow several plans, one after the other, which each add to the same output.
        """
        receipts = [] if state is None else list(state.receipts.values())
        before = {
            "rows": sum(receipt.rows for receipt in receipts),
            "parts": len(receipts),
            "errors": sum(receipt.errors for receipt in receipts),
            "tokens": sum(receipt.prompt_tokens + receipt.completion_tokens for receipt in receipts),
        }
        is_new = self.before is None or self.plan_id != plan.id
        self._target, self.plan_id = (plan, files), plan.id
        self._set_before(before, plan.output_rows)
        if is_new and self.parent is None:
            self._write(end=None)

    def found_finished(self, manifest: Mapping[str, Any]) -> None:
        """Say that all rows were there already."""
        if self.before is None:
            self.plan_id = self.plan_id or manifest.get("plan_id")
            counts = _counts_of(manifest)
            self._set_before(counts, counts["rows"])

    def replaces(self, rows: int) -> None:
        """Say that so many rows, which were there when the run began, are answered again."""
        if self.before is not None:
            self.before = self.before | {"rows": max(0, self.before["rows"] - rows)}

    def begin(self, plan_id: str) -> None:
        """Say which job of several steps the run makes. Writes the line of the run, with its end open."""
        self.plan_id, self.before = plan_id, dict.fromkeys(COUNTS, 0)
        self._write(end=None)

    def watch(self, show: OnProgress | None) -> OnProgress:
        """Pass events on to `show`, and remember the last one."""

        def seen(event: Any) -> None:
            self._last = event
            if show is not None:
                show(event)

        return seen

    def _set_before(self, before: dict[str, int], total: int) -> None:
        is_first, parent, self.total = self.before is None, self.parent, total
        self.before = before if self.before is None else self.before
        if is_first and parent is not None and parent.collects and parent.before is not None:
            parent.before = {name: parent.before[name] + before[name] for name in COUNTS}
            parent.total += total
            parent._write(end=None)

    def _add(self, part: Recorder) -> None:
        """Add what a step has made, to a run of several steps."""
        if not self.collects:
            return
        self.made = {name: self.made[name] + part.made[name] for name in COUNTS}
        self.deaths += part.deaths
        self.seconds_work += part.seconds_work

    def times(self) -> dict[str, Any]:
        """The times of the run so far, for the manifest."""
        return {
            "begin": utc_text(self.start.begin),
            "end": utc_text(datetime.now(UTC)),
            "seconds_wall": round(self.start.seconds, 3),
        }

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """The end of a run that has all of its rows."""
        self.found_finished(manifest)
        if not self.collects and self.before is not None:
            now = _counts_of(manifest)
            self.made = {name: max(0, now[name] - self.before[name]) for name in COUNTS}
            self.total = now["rows"]
            forecast = manifest.get("forecast")
            if isinstance(forecast, Mapping) and self.made["rows"]:
                self.predicted = {name: forecast.get(name) for name in ("time_s", "tokens")}
            if self._last is not None:
                self.deaths = int(manifest.get("replica_deaths") or 0)
        self._end("success", 0, "")

    def fail(self, error: BaseException) -> None:
        """The end of a run by an exception. An exception that ends the process at once leaves the line open."""
        ending = _ending(error)
        if ending is None:
            return
        with suppress(TirazhError):
            self._count_parts()
        self._end(*ending)

    def _count_parts(self) -> None:
        """Count the parts of the plan that exist, with one listing."""
        if self._target is None or self.before is None:
            return
        plan, files = self._target
        existing = files.parts()
        parts = [part for part in plan.parts if part.name in existing]
        rows = sum(map(plan.output_rows_of, parts))
        self.made |= {"rows": max(0, rows - self.before["rows"]), "parts": max(0, len(parts) - self.before["parts"])}
        if self._last is not None:
            self.made["errors"] = self._last.error_rows
            self.made["tokens"] = self._last.prompt_tokens + self._last.completion_tokens
            self.deaths = getattr(self._last, "replica_deaths", 0)

    def _end(self, outcome: str, exit_code: int, sentence: str) -> None:
        if self._last is not None and not self.collects:
            self.seconds_work = self._last.elapsed_s
        if self.parent is None:
            self._write(end=datetime.now(UTC), outcome=outcome, exit_code=exit_code, sentence=sentence)
        elif not self._is_counted:
            self._is_counted = True
            self.parent._add(self)

    def _line(self, end: datetime | None, outcome: str, exit_code: int | None, sentence: str) -> Run:
        return {
            "run_id": self.run_id,
            "begin": utc_text(self.start.begin),
            "end": None if end is None else utc_text(end),
            "host": socket.gethostname(),
            "user": _user(),
            "pid": os.getpid(),
            "job_id": self.lease.job if self.lease is not None else None,
            "command": self.kind,
            "plan_id": self.plan_id,
            "outcome": outcome,
            "exit_code": exit_code,
            "sentence": sentence,
            **{_NAMES[name]: self.made[name] for name in COUNTS},
            "rows_total": self.total,
            "replica_deaths": self.deaths,
            "seconds_wall": round(self.start.seconds, 3),
            "seconds_work": round(self.seconds_work, 3),
            "predicted": self.predicted,
            "before": self.before,
        }

    def _write(
        self, *, end: datetime | None, outcome: str = "unknown", exit_code: int | None = None, sentence: str = ""
    ) -> None:
        """Write this run's line, and close those of killed runs."""
        if self.lease is None:
            return
        try:
            self.lease.token.check_owner()
            earlier = [run for run in read_runs(self.output) if run["run_id"] != self.run_id]
            runs = [self._settled(run, is_last=run is earlier[-1]) for run in earlier]
            data = runs_text([*runs, self._line(end, outcome, exit_code, sentence)])
            self.output.storage.write(self.output.own(RUNS), data)
            if end is not None:  # a run that was killed in such a write left its temporary file
                for uri in self.output.temporary_files():
                    if f"/.{RUNS}." in uri:
                        self.output.storage.remove(uri)
        except TirazhError as error:
            logger.warning("the history of the runs could not be written: %s", error)

    def _settled(self, run: Run, *, is_last: bool) -> Run:
        """The line of an earlier run. The holder of the lease is the only run, so one that is open was killed.

        The counts of a run that did not end well are those of the parts that it left.
        """
        was_open = run["end"] is None
        if was_open:
            self._unclosed.add(run["run_id"])
        if not (was_open or run["run_id"] in self._unclosed or (is_last and run["outcome"] != "success")):
            return run
        if was_open:
            run = {**run, **self._last_sign_of_life(run)}
        before = run.get("before")
        if self.before is None or not isinstance(before, dict) or run.get("plan_id") != self.plan_id:
            return run
        left = {name: self.before[name] - int(before.get(name) or 0) for name in COUNTS}
        return {**run, **{_NAMES[name]: max(0, left[name]) for name in COUNTS}}

    def _last_sign_of_life(self, run: Run) -> dict[str, Any]:
        """The end of a killed run: when it last renewed its lease, as far as that is known."""
        begin = parse_utc(run["begin"])
        assert self.lease is not None, "only a run with a lease writes the history"
        former = parse(read_epoch(self.output, self.lease.token.epoch - 1))
        renewed = datetime.fromtimestamp(former.renewed, UTC) if former is not None else begin
        end = max(begin, renewed)
        return {"end": utc_text(end), "outcome": "unknown", "seconds_wall": round((end - begin).total_seconds(), 3)}


@contextmanager
def recording(output: OutputFiles, lease: Lease, *, kind: str, collects: bool = False) -> Iterator[Recorder]:
    """Record the run inside the block, which ends with `Recorder.finish`.

    `collects` is True for a job of several steps. A run inside another one is a part of that and writes no history.
    """
    parent = _current.get()
    recorder = Recorder(
        kind=kind,
        output=output,
        lease=lease if parent is None else None,
        start=take_start() if parent is None else parent.start,
        parent=parent,
        collects=collects,
    )
    token = _current.set(recorder)
    try:
        yield recorder
    except BaseException as error:
        recorder.fail(error)
        raise
    finally:
        _current.reset(token)


@contextmanager
def failing_early() -> Iterator[None]:
    """Record a failure or a signal as soon as it leaves the block.

    What follows, such as the end of Ray, may take longer than the process has. After it the line is written again.
    """
    try:
        yield
    except BaseException as error:
        recorder = _current.get()
        if recorder is not None and recorder.parent is None:
            recorder.fail(error)
        raise


def current_run() -> Recorder:
    """The run that is recorded now. Outside of one, a run that is recorded nowhere."""
    found = _current.get()
    return found if found is not None else _nowhere()


def record_idle_run(output: OutputFiles, manifest: Mapping[str, Any], *, kind: str, lease_s: float) -> None:
    """Record a run that found nothing left to do. Nothing but the history and the lease is changed.

    Does nothing while another run holds the output, which writes the history then, and where nothing can be written.
    """
    parent = _current.get()
    if parent is not None:
        done = Recorder(kind=kind, output=output, lease=None, start=parent.start, parent=parent)
        done.finish(manifest)
        return
    try:
        if _is_free(output):
            with hold(output, lease_s=lease_s) as lease, recording(output, lease, kind=kind) as run:
                run.finish(manifest)
    except TirazhError as error:
        logger.info("this run was not added to the history: %s", error)


def _is_free(output: OutputFiles) -> bool:
    """Whether the lease can be taken without waiting."""
    highest = max(epochs(output), default=0)
    if not highest:
        return True
    record = parse(read_epoch(output, highest))
    return record is not None and (record.released or (record.process.is_here and not record.process.is_alive))


def _counts_of(manifest: Mapping[str, Any]) -> dict[str, int]:
    tokens = sum(int(manifest.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
    counts = {name: int(manifest.get(key) or 0) for name, key in (("rows", "rows"), ("errors", "errors"))}
    return {"rows": counts["rows"], "parts": int(manifest.get("num_parts") or 0), **counts, "tokens": tokens}


def _ending(error: BaseException) -> tuple[str, int, str] | None:
    """Outcome, exit code and sentence of a run that an exception ends; None if the process has no time to say so."""
    if isinstance(error, KeyboardInterrupt):
        number = error.args[0] if error.args and isinstance(error.args[0], int) else _SIGINT
        return "interrupted", 128 + number, "interrupted by a signal"
    if isinstance(error, SystemExit) and error.code == _SIGTERM:
        return "interrupted", 128 + _SIGTERM, "interrupted by a signal"
    if isinstance(error, TirazhError):
        cause = getattr(error, "cause", None)
        shown = cause if isinstance(cause, TirazhError) else error
        return "failure", shown.exit_code, _sentence(str(shown))
    if isinstance(error, Exception):
        return "failure", 1, _sentence(f"internal error: {type(error).__name__}: {error}")
    return None


def _sentence(text: str) -> str:
    # Redacted before it is cut: the beginning of a secret is not recognised.
    text = " ".join(redact(text).split())
    return text if len(text) <= MAX_SENTENCE else text[:MAX_SENTENCE] + "…"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without an entry for the user
        return str(os.getuid()) if hasattr(os, "getuid") else ""


def _nowhere() -> Recorder:
    now = StartTime(datetime.now(UTC), time.monotonic())
    return Recorder(kind="", output=OutputFiles(Storage(), ""), lease=None, start=now)
