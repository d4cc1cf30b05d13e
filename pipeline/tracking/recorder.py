"""Records a run in all tools, in threads of their own: a tool that does not answer never holds up a job.

A tool that fails is one warning, and gets nothing more of this run.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tirazh.pipeline.storage.secrets import redact
from tirazh.pipeline.tracking.record import Entry, RunEnd, RunStart, Tracker, figures_of_event

# Progress is recorded this often.
EVERY_S = 10.0
# The end of a run waits this long for all tools together; that of an interrupted one must be quick.
CLOSE_S = 10.0
INTERRUPTED_CLOSE_S = 2.0
Call = Callable[[Tracker], None]


class Recorder:
    """The tools that record one run. `warn` receives a sentence about a tool that fails."""

    def __init__(self, tools: Sequence[str], warn: Callable[[str], None]) -> None:
        self._threads = [_ToolThread(tool, warn) for tool in tools]
        self._warn = warn
        self._begin = time.monotonic()
        self._next = self._begin
        self._entries: list[Entry] = []

    def begin(self, start: RunStart) -> None:
        """Record the settings of the run."""
        self._put(lambda tracker: tracker.begin(start))

    def progress(self, event: Any) -> None:
        """Record a progress event, at most one in EVERY_S seconds; of a training all its steps. Cheap."""
        now = time.monotonic()
        if not self._threads:
            return
        self._entries += getattr(event, "entries", ())
        if now < self._next:
            return
        self._next = now + EVERY_S
        figures: Mapping[str, float] = figures_of_event(event)
        self._put(lambda tracker: tracker.progress(now - self._begin, figures))
        self._put_entries()

    def end(self, end: RunEnd) -> None:
        """Record the end of the run, and wait a few seconds until it is."""
        self._put_entries()
        self._put(lambda tracker: tracker.end(end))
        close_s = INTERRUPTED_CLOSE_S if end.outcome == "interrupted" else CLOSE_S
        until = time.monotonic() + close_s
        for thread in self._threads:
            if not thread.close(max(0.0, until - time.monotonic())):
                self._warn(f"track: {thread.tool} did not answer within {close_s:g} s")

    def _put_entries(self) -> None:
        entries, self._entries = self._entries, []
        if entries:
            self._put(lambda tracker: tracker.training(entries))

    def _put(self, call: Call) -> None:
        for thread in self._threads:
            thread.put(call)


class _ToolThread:
    """Calls one tool, in order, until a call fails."""

    def __init__(self, tool: str, warn: Callable[[str], None]) -> None:
        self.tool = tool
        self._warn = warn
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"tirazh-{tool}", daemon=True)
        self._thread.start()

    def put(self, call: Call) -> None:
        self._calls.put(call)

    def close(self, timeout_s: float) -> bool:
        """Return whether all calls are done within `timeout_s`."""
        self._calls.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            tracker = make_tracker(self.tool)
            while (call := self._calls.get()) is not None:
                call(tracker)
        except BaseException as error:  # noqa: BLE001 - a library of someone else, which must not end the job
            reason = redact(next(iter(str(error).strip().splitlines()), ""))[:300]
            self._warn(f"track: {self.tool} does not record this run: {type(error).__name__}: {reason}")


def make_tracker(tool: str) -> Tracker:
    """The tracker of a tool. Imports its library."""
    if tool == "mlflow":
        from tirazh.pipeline.tracking.mlflow_runs import MlflowRun

        return MlflowRun()
    if tool == "wandb":
        from tirazh.pipeline.tracking.wandb_runs import WandbRun

        return WandbRun()
    if tool == "tensorboard":
        from tirazh.pipeline.tracking.tensorboard_runs import TensorboardRun

        return TensorboardRun()
    from tirazh.pipeline.tracking.lineage import LineageRun

    return LineageRun()
