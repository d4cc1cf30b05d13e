"""The figures of a run as metrics for Prometheus, through the exporter that Ray runs on every node.

The driver publishes them: Ray sends what a process has recorded when it disconnects, and keeps counters for as long
as the node lives, and gauges for 20 seconds. Processes that are killed, such as replicas, send nothing more. Ray
puts `ray_` before every name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from tirazh.pipeline.storage.errors import show_uri

logger = logging.getLogger(__name__)

LABELS = ("job", "output", "kind", "step")
PHASES = ("prefill", "decode")
# The state of the output, over all its runs: at the end of a job these are the values of its manifest.
OUTPUT_GAUGES = {
    "tirazh_rows_planned": "Rows that the finished output has",
    "tirazh_rows_done": "Rows that are answered, also those whose part is not written yet",
    "tirazh_rows_safe": "Rows in written parts",
    "tirazh_error_rows": "Rows in written parts that have an error",
    "tirazh_safe_prompt_tokens": "Prompt tokens of the rows in written parts",
    "tirazh_safe_completion_tokens": "Completion tokens of the rows in written parts",
    "tirazh_error_budget_used_ratio": "Share of the rows that may have an error which have one; above 1 the job fails",
    "tirazh_parts_planned": "Parts that the finished output has",
    "tirazh_parts_safe": "Parts that are written",
    "tirazh_replica_deaths": "Replicas that died in this run",
    "tirazh_replicas_wanted": "Most replicas that the run may have",
}
# What the run does now; 0 when it has ended.
LIVE_GAUGES = {
    "tirazh_replicas": "Replicas that serve",
    "tirazh_parts_in_flight": "Parts that replicas work on",
    "tirazh_parts_waiting": "Parts that no replica works on yet",
    "tirazh_slots": "Slots of the serving replicas, each for one sequence",
    "tirazh_busy_slots": "Slots that hold a sequence",
    "tirazh_kv_cache_bytes": "Memory that keys and values of the running sequences occupy",
    "tirazh_remaining_seconds": "Estimated time until the end",
}
# What this run has done, also work that a dead replica did in vain.
COUNTERS = {
    "tirazh_requests_total": "Requests that the engines have answered",
    "tirazh_prompt_tokens_total": "Prompt tokens that the engines have read",
    "tirazh_completion_tokens_total": "Tokens that the engines have generated",
}
PHASE_COUNTERS = {
    "tirazh_steps_total": "Steps of the engines, by phase",
    "tirazh_step_seconds_total": "Time that the steps of the engines took, by phase",
}
METRICS = OUTPUT_GAUGES | LIVE_GAUGES | COUNTERS | PHASE_COUNTERS


@dataclass(frozen=True, slots=True)
class RunLabels:
    """Labels that a job of several steps gives the metrics of its steps."""

    output: str
    step: str


_labels: ContextVar[RunLabels | None] = ContextVar("labels of metrics", default=None)


@contextmanager
def labelling(output: str, step: str) -> Iterator[None]:
    """Inside the block, metrics belong to this step of the job with this output; the outermost block decides."""
    token = _labels.set(_labels.get() or RunLabels(output, step))
    try:
        yield
    finally:
        _labels.reset(token)


def labels_of(output: str, kind: str) -> dict[str, str]:
    """The labels of the metrics of a run. `job` is the last part of the output's address."""
    around = _labels.get() or RunLabels(output, "")
    address = show_uri(around.output).rstrip("/")
    return {"job": address.rsplit("/", 1)[-1], "output": address, "kind": kind, "step": around.step}


@dataclass(slots=True, eq=False)
class MetricsExport:
    """The metrics of one run. Without Ray, or with a connection through a Ray client, nothing is published.

    `replicas_wanted` are the most replicas that the run may have; the safe tokens are those in written parts, also of
    earlier runs. Methods raise nothing: metrics are no reason for a job to fail. Not thread-safe.
    """

    labels: Mapping[str, str]
    replicas_wanted: int = 1
    safe_prompt_tokens: int = 0
    safe_completion_tokens: int = 0
    _metrics: dict[str, Any] | None = None
    _counted: dict[tuple[str, str], float] = field(default_factory=dict)
    _is_off: bool = False

    def publish(self, gauges: Mapping[str, float], totals: Mapping[str, float | Mapping[str, float]]) -> None:
        """Set gauges, and raise counters to totals of this run; a total by phase is a mapping."""
        if self._is_off:
            return
        try:
            if self._metrics is None:
                self._metrics = _make_metrics()
            if not self._metrics:
                return
            for name, value in gauges.items():
                self._metrics[name].set(value, tags=dict(self.labels))
            for name, total in totals.items():
                by_phase = total if isinstance(total, Mapping) else {"": total}
                for phase, value in by_phase.items():
                    self._count(self._metrics[name], name, phase, value)
        except Exception as error:  # noqa: BLE001 - Ray's recorder
            self._is_off = True
            logger.warning("metrics are not published any more: %s: %s", type(error).__name__, error)

    def end(self) -> None:
        """Publish that the run does nothing any more. What the output holds stays as it is."""
        if self._metrics:
            self.publish(dict.fromkeys(LIVE_GAUGES, 0), {})
        self._is_off = True

    def _count(self, counter: Any, name: str, phase: str, total: float) -> None:
        more = total - self._counted.get((name, phase), 0)
        if more > 0:
            counter.inc(more, tags={**self.labels, **({"phase": phase} if phase else {})})
            self._counted[name, phase] = total


def _make_metrics() -> dict[str, Any]:
    """Make the metrics of this process. Empty where it has no recorder of Ray."""
    import ray
    from ray.util.metrics import Counter, Gauge

    if not ray.is_initialized() or ray.util.client.ray.is_connected():
        return {}
    gauges = {name: Gauge(name, text, LABELS) for name, text in (OUTPUT_GAUGES | LIVE_GAUGES).items()}
    counters = {name: Counter(name, text, LABELS) for name, text in COUNTERS.items()}
    by_phase = {name: Counter(name, text, (*LABELS, "phase")) for name, text in PHASE_COUNTERS.items()}
    return {**gauges, **counters, **by_phase}
