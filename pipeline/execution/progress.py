"""Tells the caller where a running job is, about once a second, from a thread of its own. Used by `build.py`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from tirazh.errors import JobError
from tirazh.pipeline.execution.metrics import MetricsSnapshot, ProgressEvent
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.plan import Plan

OnProgress = Callable[[ProgressEvent], None]
_EVERY_S = 1.0
_ASK_TIMEOUT_S = 5.0


class JobProgress:
    """Counts the parts as they are written and mixes in what the replicas are at. `snapshot` is the last one heard."""

    def __init__(
        self, plan: Plan, todo: list[Part], *, samples: int, max_error_rate: float, on_progress: OnProgress | None
    ) -> None:
        self._plan = plan
        self._samples = samples
        self._max_errors = max_error_rate * plan.rows
        self._max_error_rate = max_error_rate
        self._on_progress = on_progress
        self._begun = time.monotonic()
        self._rows_resumed = plan.rows - sum(part.rows for part in todo)
        self._rows_left = sum(part.rows for part in todo)
        self._parts_done = len(plan.parts) - len(todo)
        self.rows_written = self.errors = 0
        self.left_out: list[int] = []
        self.snapshot = MetricsSnapshot()
        self.most_replicas = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def facts(self) -> dict[str, Any]:
        """This run in figures, for the manifest."""
        event = self._event()
        return {
            "seconds": round(event.elapsed_s, 3),
            "tokens_per_s": round(event.tokens_per_s, 1),
            "replicas": self.most_replicas,
            "replica_deaths": self.snapshot.deaths,
        }

    def add(self, written: Mapping[str, Any]) -> None:
        """Note what the sink says of one part. Raises JobError once too many rows have ended in errors."""
        if not written["written"]:
            self.left_out.append(written["part"])
            return
        self._parts_done += 1
        self.rows_written += written["rows"]
        self.errors += written["errors"]
        self.tell()
        if self.errors > self._max_errors:
            raise JobError(
                f"{self.errors} rows of {self.rows_written} ended in errors, more than the share of "
                f"{self._max_error_rate:g} that --max-error-rate allows; what is finished is kept, and the column of "
                "errors says why"
            )

    def tell(self) -> None:
        """Give the caller an event now."""
        if self._on_progress is not None:
            self._on_progress(self._event())

    @contextmanager
    def watching(self, metrics: Any) -> Iterator[None]:
        """Ask the replicas' counters in the background for as long as the block runs."""
        done = threading.Event()
        thread = threading.Thread(target=self._watch, args=(metrics, done), name="tirazh-progress", daemon=True)
        thread.start()
        try:
            yield
            self._ask(metrics)
            self.tell()  # a short job ends before the first answer
        finally:
            done.set()
            thread.join(_EVERY_S)

    def _watch(self, metrics: Any, done: threading.Event) -> None:
        while not done.wait(_EVERY_S):
            self._ask(metrics)
            self.tell()

    def _ask(self, metrics: Any) -> None:
        try:
            self.snapshot = ray.get(metrics.snapshot.remote(), timeout=_ASK_TIMEOUT_S)
        except (RayError, GetTimeoutError):
            return
        self.most_replicas = max(self.most_replicas, self.snapshot.replicas)

    def _event(self) -> ProgressEvent:
        # Replicas may have done rows twice, when one died: never more than there are, never less than are written.
        rows = max(self.rows_written, min(self.snapshot.requests // self._samples, self._rows_left))
        return ProgressEvent(
            rows_done=self._rows_resumed + rows,
            rows_total=self._plan.rows,
            rows_resumed=self._rows_resumed,
            parts_done=self._parts_done,
            parts_total=len(self._plan.parts),
            error_rows=self.errors,
            prompt_tokens=self.snapshot.prompt_tokens,
            completion_tokens=self.snapshot.completion_tokens,
            replicas=self.snapshot.replicas,
            elapsed_s=self.seconds,
        )
