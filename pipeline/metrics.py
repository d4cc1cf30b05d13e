"""What is known of a running job: counters of the replicas, parts that are done, parts that killed a replica.

A small Ray actor on the driver's node, told by replicas about once a second and asked by `progress.py`. Nothing here is
needed for the rows to be right: when it is gone, the job goes on unseen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from model.errors import TirazhError
from model.requests import EngineCounters

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
class Snapshot:
    """The sum over all replicas that ever ran, dead ones included; parts that are not yet written count too."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    replicas: int = 0
    deaths: int = 0


class Metrics:
    """The actor. Replicas are told apart by a name that is new for every life of one."""

    def __init__(self) -> None:
        self._counters: dict[str, EngineCounters] = {}
        self._alive: set[str] = set()
        self._deaths: Counter[int] = Counter()
        self._num_deaths = 0
        self._errors: list[TirazhError] = []
        self._versions: dict[str, str] = {}

    def begin(self, replica: str, versions: dict[str, str]) -> None:
        """A replica can serve; `versions` of the libraries it runs on."""
        self._alive.add(replica)
        self._versions.update(versions)

    def count(self, replica: str, counters: EngineCounters) -> None:
        """A replica's totals so far."""
        self._counters[replica] = counters

    def died(self, replica: str, parts: Iterable[int]) -> None:
        """A replica ended while it worked on `parts`."""
        self._alive.discard(replica)
        self._num_deaths += 1
        self._deaths.update(parts)

    def deaths(self, part: int) -> int:
        """How many replicas ended while they worked on `part`."""
        return self._deaths[part]

    def fail(self, error: TirazhError) -> int:
        """Remember why a replica could not start: Ray passes on only a traceback. Returns how many others serve."""
        self._errors.append(error)
        return len(self._alive)

    def errors(self) -> list[TirazhError]:
        return self._errors

    def versions(self) -> dict[str, str]:
        return self._versions

    def snapshot(self) -> Snapshot:
        every = self._counters.values()
        return Snapshot(
            requests=sum(counters.finished for counters in every),
            prompt_tokens=sum(counters.prompt_tokens for counters in every),
            completion_tokens=sum(counters.completion_tokens for counters in every),
            replicas=len(self._alive),
            deaths=self._num_deaths,
        )


def start_metrics() -> Any:
    """Start the actor beside the driver and return its handle; it ends with the driver."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(Metrics).options(num_cpus=0, scheduling_strategy=here).remote()


def library_versions(metrics: Any) -> dict[str, str]:
    """Versions of what the replicas ran on; empty when the actor is gone."""
    return dict(_ask(metrics.versions, default={}))


def replica_errors(metrics: Any) -> list[TirazhError]:
    """Why replicas could not start, in order; empty when the actor is gone."""
    return list(_ask(metrics.errors, default=[]))


def _ask(method: Any, *, default: Any) -> Any:
    try:
        return ray.get(method.remote(), timeout=_TIMEOUT_S)
    except (RayError, GetTimeoutError):
        return default
