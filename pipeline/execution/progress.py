"""Reports the progress of a running job to the caller, about once a second, from a background thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tirazh.pipeline.execution.metrics import MetricsSnapshot, ProgressEvent
from tirazh.pipeline.execution.metrics_client import MetricsClient
from tirazh.pipeline.execution.recent_speed import RecentSpeed
from tirazh.pipeline.execution.timeline import Timeline
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.output.budget import ErrorBudget
from tirazh.pipeline.output.state import OutputState
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.tracking.prometheus import PHASES, MetricsExport

OnProgress = Callable[[ProgressEvent], None]
OnConnected = Callable[[], None]
_EVERY_S = 1.0


class JobProgress:
    """Combines the parts that are written with the counters of the replicas.

    `samples` are the requests for a row of the input. `earlier_errors` are the rows with an error in the parts of
    earlier runs: the error budget holds for all runs of a job together. `replicas_wanted` is the most replicas that the
    run may have. `snapshot` are the latest counters received.
    `skipped` are the indices of the parts that were skipped. With an `export` the figures are also metrics of Ray.
    """

    def __init__(
        self,
        plan: Plan,
        remaining: list[Part],
        *,
        samples: int,
        max_error_rate: float,
        earlier_errors: int = 0,
        replicas_wanted: int = 0,
        on_progress: OnProgress | None,
    ) -> None:
        self._plan = plan
        self._requests_per_row = max(1, samples // plan.rows_per_input_row)
        self._budget = ErrorBudget(max_error_rate, plan.output_rows)
        self._earlier_errors = earlier_errors
        self._on_progress = on_progress
        self._replicas_wanted = replicas_wanted
        self._recent = RecentSpeed()
        self._lock = threading.Lock()  # the loop over the parts and the thread that polls both report
        self._start = time.monotonic()
        self._rows_left = sum(map(plan.output_rows_of, remaining))
        self._rows_resumed = plan.output_rows - self._rows_left
        self._parts_done = len(plan.parts) - len(remaining)
        self.rows_written = self.errors = 0
        self.skipped: list[int] = []
        self.export: MetricsExport | None = None
        self.snapshot = MetricsSnapshot()
        self.most_replicas = 0
        self._timeline = Timeline()

    @property
    def seconds(self) -> float:
        """Seconds since the start of this run."""
        return time.monotonic() - self._start

    def facts(self) -> dict[str, Any]:
        """The figures of this run for the manifest."""
        event = self._event()
        return {
            "seconds": round(event.elapsed_s, 3),
            "start_s": round(min(self._recent.began_s or 0.0, event.elapsed_s), 3),
            "tokens_per_s": round(event.tokens_per_s, 1),
            "replicas": self.most_replicas,
            "replica_deaths": self.snapshot.deaths,
            "timeline": self._timeline.facts(),
        }

    def add(self, written: Mapping[str, Any]) -> None:
        """Record the sink's row about one part. Raises JobError once too many rows have errors."""
        if not written["written"]:
            self.skipped.append(written["part"])
            return
        self._parts_done += 1
        self.rows_written += written["rows"]
        self.errors += written["errors"]
        if self.export is not None:
            self.export.safe_prompt_tokens += written.get("prompt_tokens", 0)
            self.export.safe_completion_tokens += written.get("completion_tokens", 0)
        self.report()
        self._budget.check(errors=self._earlier_errors + self.errors, answered=self._rows_resumed + self.rows_written)

    def report(self) -> None:
        """Pass an event to the caller, and the metrics of the run to Ray, now."""
        with self._lock:
            event = self._event()
            self._timeline.add(event)
            if self._on_progress is not None:
                self._on_progress(event)
            if self.export is not None:
                self.export.publish(self._gauges(event, self.export), totals_of(self.snapshot))

    @contextmanager
    def watching(self, metrics: MetricsClient) -> Iterator[None]:
        """Inside the block, poll the replicas' counters and report progress in the background."""
        done = threading.Event()
        thread = threading.Thread(target=self._watch, args=(metrics, done), name="tirazh-progress", daemon=True)
        thread.start()
        try:
            yield
            self._poll(metrics)
            self.report()  # a short job ends before the first poll
        finally:
            done.set()
            thread.join(_EVERY_S)
            if self.export is not None:
                with self._lock:
                    self.export.end()

    def _watch(self, metrics: MetricsClient, done: threading.Event) -> None:
        while not done.wait(_EVERY_S):
            self._poll(metrics)
            self.report()

    def _gauges(self, event: ProgressEvent, export: MetricsExport) -> dict[str, float]:
        """The values of the gauges that `prometheus.py` describes."""
        engines, in_flight = self.snapshot.engines, self.snapshot.parts_in_flight
        return {
            "tirazh_rows_planned": event.rows_total,
            "tirazh_rows_done": event.rows_done,
            "tirazh_rows_safe": self._rows_resumed + self.rows_written,
            "tirazh_error_rows": self._earlier_errors + self.errors,
            "tirazh_safe_prompt_tokens": export.safe_prompt_tokens,
            "tirazh_safe_completion_tokens": export.safe_completion_tokens,
            "tirazh_error_budget_used_ratio": self._budget.used(self._earlier_errors + self.errors),
            "tirazh_parts_planned": event.parts_total,
            "tirazh_parts_safe": event.parts_done,
            "tirazh_replica_deaths": self.snapshot.deaths,
            "tirazh_replicas_wanted": export.replicas_wanted,
            "tirazh_replicas": self.snapshot.replicas,
            "tirazh_parts_in_flight": in_flight,
            "tirazh_parts_waiting": max(0, event.parts_total - event.parts_done - in_flight),
            "tirazh_slots": engines.slots,
            "tirazh_busy_slots": engines.busy_slots,
            "tirazh_kv_cache_bytes": engines.cache_bytes,
            "tirazh_remaining_seconds": event.eta_s or 0.0,
        }

    def _poll(self, metrics: MetricsClient) -> None:
        now = metrics.snapshot()
        self.snapshot = now.not_below(self.snapshot) if now is not None else self.snapshot
        self.most_replicas = max(self.most_replicas, self.snapshot.replicas)

    def _event(self) -> ProgressEvent:
        # The rows of a replica that died are counted twice, so the count is limited to the rows
        # that exist. It is never below the number of rows written.
        rows = max(self.rows_written, min(self.snapshot.requests // self._requests_per_row, self._rows_left))
        made, seconds = self.snapshot, self.seconds
        tokens = made.prompt_tokens + made.completion_tokens
        self._recent.add(seconds, rows=rows, tokens=tokens, serves=made.replicas > 0)
        return ProgressEvent(
            rows_done=self._rows_resumed + rows,
            rows_total=self._plan.output_rows,
            rows_resumed=self._rows_resumed,
            parts_done=self._parts_done,
            parts_total=len(self._plan.parts),
            error_rows=self.errors,
            prompt_tokens=made.prompt_tokens,
            completion_tokens=made.completion_tokens,
            replicas=made.replicas,
            elapsed_s=seconds,
            rows_safe=self._rows_resumed + self.rows_written,
            replicas_wanted=self._replicas_wanted,
            waiting_for=self._waiting_for(rows),
            recent_tokens_per_s=self._recent.tokens_per_s,
            recent_eta_s=self._recent.eta_s(self._rows_left - rows),
            replica_deaths=made.deaths,
        )

    def _waiting_for(self, rows: int) -> str:
        if rows >= self._rows_left:
            return ""
        if not self.snapshot.replicas:
            return self.snapshot.waiting_for or "a worker process"
        return "" if rows else "the first rows"


@contextmanager
def waiting_for_ray(plan: Plan, state: OutputState | None, on_progress: OnProgress | None) -> Iterator[OnConnected]:
    """Report once a second that the run waits for Ray, until the function that is yielded is called.

    `state` is what earlier runs have made, None for a new output.
    """
    rows_safe, parts_done = (0, 0) if state is None else (state.rows, len(state.receipts))
    connected = threading.Event()
    start = time.monotonic()
    event = ProgressEvent(
        rows_done=rows_safe,
        rows_total=plan.output_rows,
        rows_resumed=rows_safe,
        parts_done=parts_done,
        parts_total=len(plan.parts),
        error_rows=0,
        prompt_tokens=0,
        completion_tokens=0,
        replicas=0,
        elapsed_s=0.0,
        rows_safe=rows_safe,
        waiting_for="Ray",
    )

    def report() -> None:
        while on_progress is not None and not connected.is_set():
            on_progress(replace(event, elapsed_s=time.monotonic() - start))
            connected.wait(_EVERY_S)

    thread = threading.Thread(target=report, name="tirazh-waits-for-ray", daemon=True)
    thread.start()

    def stop() -> None:
        connected.set()
        thread.join(_EVERY_S)

    try:
        yield stop
    finally:
        stop()


def totals_of(snapshot: MetricsSnapshot) -> dict[str, float | Mapping[str, float]]:
    """The values of the counters that `prometheus.py` describes."""
    engines = snapshot.engines
    steps = (engines.prefill_steps, engines.steps - engines.prefill_steps)
    return {
        "tirazh_requests_total": snapshot.requests,
        "tirazh_prompt_tokens_total": snapshot.prompt_tokens,
        "tirazh_completion_tokens_total": snapshot.completion_tokens,
        "tirazh_steps_total": dict(zip(PHASES, steps, strict=True)),
        "tirazh_step_seconds_total": dict(zip(PHASES, (engines.prefill_s, engines.decode_s), strict=True)),
    }
