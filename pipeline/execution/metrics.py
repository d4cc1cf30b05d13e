"""What is known of a running job: counters of the replicas, parts that are done, parts that killed a replica.

A small Ray actor on the driver's node, told by replicas about once a second and asked by `execution/progress.py`.
Nothing here is
needed for the rows to be right: when it is gone, Ray starts it again, and it knows only what it is told from then on.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tirazh.errors import TirazhError
from tirazh.model.requests import EngineCounters

_TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressEvent:
    """Where a job is. `rows_resumed` were done by earlier runs and are counted in `rows_done`; tokens and errors are
    this run's. `elapsed_s` counts from the start of the run."""

    rows_done: int
    rows_total: int
    rows_resumed: int
    parts_done: int
    parts_total: int
    error_rows: int
    prompt_tokens: int
    completion_tokens: int
    replicas: int
    elapsed_s: float

    @property
    def tokens_per_s(self) -> float:
        tokens = self.prompt_tokens + self.completion_tokens
        return tokens / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds that the rest will take at this run's speed; None before there is one."""
        done = self.rows_done - self.rows_resumed
        return (self.rows_total - self.rows_done) * self.elapsed_s / done if done > 0 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricsSnapshot:
    """The sum over all replicas that ever ran, dead ones included; parts that are not yet written count too."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    replicas: int = 0
    deaths: int = 0


class Metrics:
    """The actor. Replicas are told apart by a name that is new for every life of one; an owner, the actor that holds a
    replica, by an id that it keeps when Ray starts it again."""

    def __init__(self) -> None:
        self._counters: dict[str, EngineCounters] = {}
        self._serving: dict[str, str] = {}
        self._in_flight: dict[str, set[int]] = {}
        self._last_beats: dict[str, tuple[float, Any]] = {}
        self._deaths: Counter[int] = Counter()
        self._reasons: dict[int, str] = {}
        self._num_deaths = 0
        self._errors: list[TirazhError] = []
        self._versions: dict[str, str] = {}

    def enter(self, owner: str) -> None:
        """An owner begins, or begins again after its process ended without a word."""
        if self._in_flight.get(owner) or owner in self._serving:
            self.died(owner, "the process that held the replica died")

    def begin(self, owner: str, replica: str, versions: dict[str, str]) -> None:
        """A replica can serve; `versions` of the libraries it runs on."""
        self._serving[owner] = replica
        self._versions.update(versions)

    def beat(self, owner: str, actor: Any, replica: str | None) -> None:
        """An owner lives, and its replica, if it is named, serves. `actor` is the owner's handle."""
        self._last_beats[owner] = (time.monotonic(), actor)
        if replica is not None:
            self._serving[owner] = replica

    def take_silent(self, timeout_s: float) -> list[Any]:
        """Handles of the owners that have not been heard of for so long; each is told once for a silence."""
        now = time.monotonic()
        silent = [owner for owner, (heard, _) in self._last_beats.items() if now - heard > timeout_s]
        return [self._last_beats.pop(owner)[1] for owner in silent]

    def count(self, replica: str, counters: EngineCounters) -> None:
        """A replica's totals so far."""
        self._counters[replica] = counters

    def take(self, owner: str, part: int) -> None:
        """An owner begins to work on `part`."""
        self._in_flight.setdefault(owner, set()).add(part)

    def give(self, owner: str, part: int) -> None:
        """An owner has the answers of `part`."""
        self._in_flight.get(owner, set()).discard(part)

    def died(self, owner: str, reason: str) -> None:
        """A replica ended; the parts that its owner worked on are under suspicion."""
        parts = self._in_flight.pop(owner, set())
        self._serving.pop(owner, None)
        self._num_deaths += 1
        self._deaths.update(parts)
        self._reasons.update(dict.fromkeys(parts, reason))

    def deaths(self, part: int) -> int:
        """How many replicas ended while they worked on `part`."""
        return self._deaths[part]

    def reasons(self) -> dict[int, str]:
        """Why the last replica ended that worked on a part, for every part that one ended with."""
        return self._reasons

    def fail(self, error: TirazhError) -> int:
        """Remember why a replica could not start: Ray passes on only a traceback. Returns how many others serve."""
        self._errors.append(error)
        return len(self._serving)

    def errors(self) -> list[TirazhError]:
        return self._errors

    def versions(self) -> dict[str, str]:
        return self._versions

    def snapshot(self) -> MetricsSnapshot:
        every = self._counters.values()
        return MetricsSnapshot(
            requests=sum(counters.finished for counters in every),
            prompt_tokens=sum(counters.prompt_tokens for counters in every),
            completion_tokens=sum(counters.completion_tokens for counters in every),
            replicas=len(self._serving),
            deaths=self._num_deaths,
        )


def start_metrics() -> Any:
    """Start the actor beside the driver and return its handle; it ends with the driver."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(Metrics).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()


def library_versions(metrics: Any) -> dict[str, str]:
    """Versions of what the replicas ran on; empty when the actor is gone."""
    return dict(_ask(metrics.versions, default={}))


def replica_errors(metrics: Any) -> list[TirazhError]:
    """Why replicas could not start, in order; empty when the actor is gone."""
    return list(_ask(metrics.errors, default=[]))


def reasons_of_deaths(metrics: Any) -> dict[int, str]:
    """Why replicas ended, by the parts they worked on; empty when the actor is gone."""
    return dict(_ask(metrics.reasons, default={}))


def _ask(method: Any, *, default: Any) -> Any:
    try:
        return ray.get(method.remote(), timeout=_TIMEOUT_S)
    except (RayError, GetTimeoutError):
        return default
