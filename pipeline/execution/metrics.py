"""The metrics actor: counters of the replicas, heartbeats of their owners, and the parts that killed a replica.

It is a small Ray actor on the driver's node. Other processes use it through `metrics_client.py`.
Results do not depend on it: if it dies, Ray restarts it, and it collects what it receives from then
on.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from tirazh.actors.watch import limit_s
from tirazh.errors import TirazhError
from tirazh.model.requests import EngineCounters

# The driver asks for silent owners twice as often. Where this process was stopped or got no CPU time
# for longer, the heartbeats that it missed may still be waiting for it.
_MAX_GAP_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressEvent:
    """The progress of a job.

    `rows_done` includes `rows_resumed`, the rows of earlier runs, and rows whose part is not written yet; `rows_safe`
    are those in written parts. Tokens and errors are those of this run. `elapsed_s` counts from its start. `step` says
    which step of a job of several steps it is, such as "step 2 of 4: body". `waiting_for` is what the start waits for,
    empty while rows are answered. `recent_tokens_per_s` and `recent_eta_s` follow from the last minutes
    (`recent_speed.py`); None while too little is known. `wall_s` counts from the start of the command, Ray's start
    included; None where it is not known.
    """

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
    step: str = ""
    rows_safe: int = 0
    replicas_wanted: int = 0
    waiting_for: str = ""
    recent_tokens_per_s: float | None = None
    recent_eta_s: float | None = None
    wall_s: float | None = None
    replica_deaths: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Prompt and completion tokens per second of this run."""
        tokens = self.prompt_tokens + self.completion_tokens
        return tokens / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Estimated seconds until the end, at the recent speed or this run's mean; None before any row is done."""
        if self.recent_eta_s is not None:
            return self.recent_eta_s
        done = self.rows_done - self.rows_resumed
        return (self.rows_total - self.rows_done) * self.elapsed_s / done if done > 0 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricsSnapshot:
    """Totals over all replicas of the run, including dead ones and parts that are not written yet."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    replicas: int = 0
    deaths: int = 0
    waiting_for: str = ""
    parts_in_flight: int = 0
    engines: EngineCounters = field(default_factory=EngineCounters)

    def not_below(self, earlier: MetricsSnapshot) -> MetricsSnapshot:
        """This snapshot, with no total below that of an `earlier` one: the actor forgets what it knew
        when it is restarted. The number of replicas may shrink."""
        return MetricsSnapshot(
            requests=max(self.requests, earlier.requests),
            prompt_tokens=max(self.prompt_tokens, earlier.prompt_tokens),
            completion_tokens=max(self.completion_tokens, earlier.completion_tokens),
            replicas=self.replicas,
            deaths=max(self.deaths, earlier.deaths),
            waiting_for=self.waiting_for,
            parts_in_flight=self.parts_in_flight,
            engines=self.engines.not_below(earlier.engines),
        )


class Metrics:
    """The actor class.

    An owner is the actor process that holds a replica. Its id stays the same when Ray restarts it,
    while each replica that it starts has a new name.
    """

    def __init__(self) -> None:
        self._counters: dict[str, EngineCounters] = {}
        self._serving: dict[str, str] = {}
        self._starting: dict[str, str] = {}
        self._in_flight: dict[str, set[int]] = {}
        self._last_heartbeats: dict[str, tuple[float, bytes]] = {}
        self._longest_silence_s = 0.0  # between two heartbeats of an owner that was alive
        self._last_asked = time.monotonic()
        self._deaths: Counter[int] = Counter()
        self._reasons: dict[int, str] = {}
        self._num_deaths = 0
        self._errors: list[TirazhError] = []
        self._versions: dict[str, str] = {}
        self._is_draining = False

    def register(self, owner: str) -> None:
        """Register an owner that starts.

        A known one has been restarted after its process died unreported.
        """
        if owner in self._last_heartbeats:  # the time that its restart took is no silence
            self._last_heartbeats[owner] = (time.monotonic(), self._last_heartbeats[owner][1])
        # A process that is killed cannot report its death; its parts are still recorded here.
        if self._in_flight.get(owner) or owner in self._serving:
            self.replica_died(owner, "the process that held the replica died")

    def replica_started(self, owner: str, replica: str, versions: dict[str, str]) -> None:
        """Record a replica that serves, and the `versions` of the libraries it runs on."""
        self._serving[owner] = replica
        self._versions.update(versions)

    def heartbeat(self, owner: str, actor: bytes, replica: str | None, waiting_for: str = "") -> None:
        """Record that an owner is alive. `actor` is its pickled handle, which is not opened here: that would import
        Ray Data. `replica`, if it has one, is serving. Before that, `waiting_for` is what its start waits for."""
        now = time.monotonic()
        if owner in self._last_heartbeats:
            self._longest_silence_s = max(self._longest_silence_s, now - self._last_heartbeats[owner][0])
        self._last_heartbeats[owner] = (now, actor)
        self._starting.pop(owner, None)
        if replica is not None:
            self._serving[owner] = replica
        elif waiting_for:
            self._starting[owner] = waiting_for

    def take_silent_owners(self, timeout_s: float, ceiling_s: float = 0.0) -> list[bytes]:
        """Return the owners without a heartbeat for `timeout_s`, or up to `ceiling_s` where heartbeats
        were late before (`limit_s`).

        Each is returned once until its next heartbeat.
        """
        now = time.monotonic()
        missed_s = max(0.0, now - self._last_asked - _MAX_GAP_S)
        self._last_asked = now
        self._last_heartbeats = {
            owner: (min(last + missed_s, now), actor) for owner, (last, actor) in self._last_heartbeats.items()
        }
        limit = limit_s(timeout_s=timeout_s, ceiling_s=ceiling_s, slowest_s=self._longest_silence_s)
        silent = [owner for owner, (last, _) in self._last_heartbeats.items() if now - last >= limit]
        # The entry is removed, so that an owner is killed once, and not again while it restarts.
        return [self._last_heartbeats.pop(owner)[1] for owner in silent]

    def set_counters(self, replica: str, counters: EngineCounters) -> None:
        """Record a replica's totals so far."""
        self._counters[replica] = counters

    def part_started(self, owner: str, part: int) -> bool:
        """Record that an owner works on a part. Returns False if it must not start it, since the run is stopping."""
        if not self._is_draining:
            self._in_flight.setdefault(owner, set()).add(part)
        return not self._is_draining

    def drain(self) -> int:
        """Let no more parts start. Returns the number of parts that owners work on."""
        self._is_draining = True
        return sum(map(len, self._in_flight.values()))

    def part_finished(self, owner: str, part: int) -> None:
        """Record that an owner has the results of a part."""
        self._in_flight.get(owner, set()).discard(part)

    def replica_died(self, owner: str, reason: str) -> None:
        """Record the death of a replica, and count it against all parts that its owner was working on."""
        parts = self._in_flight.pop(owner, set())
        self._serving.pop(owner, None)
        self._starting.pop(owner, None)
        self._num_deaths += 1
        # Which of the parts killed the replica is not known, so all of them are suspected.
        self._deaths.update(parts)
        self._reasons.update(dict.fromkeys(parts, reason))

    def deaths_of(self, part: int) -> int:
        """The number of replicas that died while they worked on `part`."""
        return self._deaths[part]

    def death_reasons(self) -> dict[int, str]:
        """Part → why the last replica died that worked on it."""
        return self._reasons

    def start_failed(self, error: TirazhError) -> int:
        """Record why a replica could not start, since Ray passes on only a traceback.

        Returns the number of replicas that serve.
        """
        self._errors.append(error)
        return len(self._serving)

    def errors(self) -> list[TirazhError]:
        """Why replicas could not start, in order."""
        return self._errors

    def versions(self) -> dict[str, str]:
        """Versions of the libraries that the replicas run on."""
        return self._versions

    def snapshot(self) -> MetricsSnapshot:
        """The totals of the run."""
        counters = self._counters.values()
        return MetricsSnapshot(
            requests=sum(each.finished for each in counters),
            prompt_tokens=sum(each.prompt_tokens for each in counters),
            completion_tokens=sum(each.completion_tokens for each in counters),
            replicas=len(self._serving),
            deaths=self._num_deaths,
            # Dicts keep their order: of several replicas the one that has reported last.
            waiting_for=next(reversed(self._starting.values()), ""),
            parts_in_flight=len(set().union(*self._in_flight.values())),
            engines=self._engines(),
        )

    def _engines(self) -> EngineCounters:
        """The sum over the engines; those of dead replicas hold nothing any more."""
        serving, total = set(self._serving.values()), EngineCounters()
        for replica, counters in self._counters.items():
            total = total.plus(counters, totals_only=replica not in serving)
        return total
