"""Watch over a replica: notice that a rank has died, has stopped or makes no progress, by its
heartbeats.

Progress is a layer of the model, a step or an idle round. A rank that works slowly must not be ended,
so the limit follows what was measured (`limit_s`). The watcher is a thread of the process that owns
the replica.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from tirazh.actors.messages import RankFailure, RankLocation, ReplicaHeartbeat
from tirazh.actors.rank_handle import RankHandle

ResultT = TypeVar("ResultT")

# When one rank dies, the others report a lost connection. Ray reports the dead one within this
# time.
_GRACE_S = 1.0


# A machine may become this many times slower than it was at its slowest, and its ranks still count
# as working.
SLOWDOWN = 10


def limit_s(*, timeout_s: float, ceiling_s: float, slowest_s: float) -> float:
    """Return the seconds without progress after which a rank counts as stuck.

    They are `timeout_s` (--rank-timeout-s), or `SLOWDOWN` times `slowest_s`, the longest time that a
    layer or step took so far, where that is longer; but above `timeout_s` never more than
    `ceiling_s` (--start-timeout-s).
    """
    return max(timeout_s, min(SLOWDOWN * slowest_s, ceiling_s))


class StallClock:
    """Measures for how long rank 0 has had work but made no progress. `now` is in seconds of any
    one clock.

    Of the time between two observations at most `max_gap_s` counts: where the watching process
    itself was stopped or got no CPU time, it does not know what the rank did meanwhile.
    """

    def __init__(self, now: float, *, max_gap_s: float = float("inf")) -> None:
        self.stalled_s = 0.0
        self.slowest_s = 0.0
        self._max_gap_s = max_gap_s
        self._observed = now
        self._count = -1

    def observe(self, heartbeat: ReplicaHeartbeat | None, now: float) -> float:
        """Return the seconds without progress. `heartbeat` None: the rank has not answered yet."""
        self.stalled_s += min(now - self._observed, self._max_gap_s)
        self._observed = now
        if heartbeat is not None:
            self.slowest_s = heartbeat.slowest_s
            if heartbeat.count != self._count or not heartbeat.is_busy:
                self._count, self.stalled_s = heartbeat.count, 0.0
        return self.stalled_s


class Watcher:
    """Calls `on_failure(reason)` once, from its own thread, when the replica can no longer work.

    `timeout_s` and `ceiling_s` define the longest time without progress, see `limit_s`.
    """

    def __init__(
        self,
        ranks: Sequence[RankHandle],
        locations: Sequence[RankLocation],
        *,
        timeout_s: float,
        ceiling_s: float,
        on_failure: Callable[[str], None],
    ) -> None:
        self._ranks = ranks
        self._locations = locations
        self._timeout_s, self._ceiling_s = timeout_s, ceiling_s
        self._on_failure = on_failure
        self._ends = [rank.watch.remote() for rank in ranks]
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="replica-watcher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching. Idempotent; never blocks."""
        self._is_closed.set()

    def wait_until_dead(self, timeout_s: float) -> bool:
        """Wait until no rank is alive, after they were killed. Returns False when some still are."""
        done, _ = ray.wait(self._ends, num_returns=len(self._ends), timeout=timeout_s)
        return len(done) == len(self._ends)

    def _watch(self) -> None:
        poll_s = min(1.0, self._timeout_s / 4)
        clock = StallClock(time.monotonic(), max_gap_s=2 * poll_s)
        request = self._ranks[0].heartbeat.remote()
        while not self._is_closed.is_set():
            ended, _ = ray.wait(self._ends, num_returns=1, timeout=poll_s)
            if self._is_closed.is_set():
                return
            if ended:
                return self._on_failure(self._find_reason())
            answered, _ = ray.wait([request], timeout=0)
            answer = self._read(request) if answered else None
            request = self._ranks[0].heartbeat.remote() if answered else request
            heartbeat = answer if isinstance(answer, ReplicaHeartbeat) else None
            clock.observe(heartbeat, time.monotonic())
            limit = limit_s(timeout_s=self._timeout_s, ceiling_s=self._ceiling_s, slowest_s=clock.slowest_s)
            if clock.stalled_s > limit:
                return self._on_failure(self._describe_stall(limit, clock.slowest_s))
        return None

    def _describe_stall(self, limit: float, slowest_s: float) -> str:
        """Say that rank 0 is stuck, where the limit comes from, and which ranks do not answer."""
        origin = f"--rank-timeout-s is {self._timeout_s:g}"
        if limit > self._timeout_s:
            origin += f", and its slowest layer or step so far took {slowest_s:.3g} s"
        requests = [rank.heartbeat.remote() for rank in self._ranks]
        answered, _ = ray.wait(requests, num_returns=len(requests), timeout=_GRACE_S)
        silent = [str(self._locations[rank]) for rank, request in enumerate(requests) if request not in answered]
        stopped = f"; no answer comes from {' and '.join(silent)}" if silent else ""
        return f"{self._locations[0]} has work but made no progress for {limit:.3g} s ({origin}){stopped}"

    def _find_reason(self) -> str:
        """Describe the rank that ended first: a dead process rather than one that only lost a
        connection."""
        ended, _ = ray.wait(self._ends, num_returns=len(self._ends), timeout=_GRACE_S)
        dead, stopped = [], []
        for end in ended:
            location, outcome = self._locations[self._ends.index(end)], self._read(end)
            if isinstance(outcome, RankFailure):
                stopped.append(f"{location} stopped: {outcome.reason}")
            else:
                dead.append(f"{location} {outcome}")
        return (dead + stopped)[0]

    def _read(self, ref: Awaitable[ResultT]) -> ResultT | str:
        """Return the value of a finished reference; where its rank is dead, how it died."""
        try:
            value: ResultT = ray.get(ref)
        except RayError as error:
            return cause_of_death(error)
        return value


def cause_of_death(error: RayError) -> str:
    """Return how an actor ended, as far as Ray knows, in words that follow the actor's name."""
    text = str(error)
    if "OUT_OF_MEMORY" in text or "running low on memory" in text:
        return "was killed because its node ran out of memory"
    if "node has died" in text or "node died" in text:
        return "died with its node"
    if isinstance(error, RayTaskError):
        return f"failed ({text.strip().splitlines()[-1]})"
    return "died"
