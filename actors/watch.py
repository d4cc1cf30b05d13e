"""Notices that a rank has died, has given up or makes no progress. One thread of the process that owns a replica."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from tirazh.actors.messages import RankFailure, RankLocation, ReplicaHeartbeat

# When one rank dies, the others report a broken connection; within this time the dead one is known too.
_GRACE_S = 1.0


class StallClock:
    """Measures how long rank 0 has had work without a step. `now` values are seconds of any one clock."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._beats = -1

    def observe(self, progress: ReplicaHeartbeat | None, now: float) -> float:
        """Return seconds without progress. `progress` None: no answer (yet)."""
        if progress is not None and (progress.beats != self._beats or not progress.is_busy):
            self._beats, self._since = progress.beats, now
        return now - self._since


class Watcher:
    """Calls `on_failure(reason)` once, from its own thread, when the replica can no longer work."""

    def __init__(
        self,
        ranks: Sequence[Any],
        locations: Sequence[RankLocation],
        *,
        timeout_s: float,
        on_failure: Callable[[str], None],
    ) -> None:
        self._ranks = ranks
        self._locations = locations
        self._timeout_s = timeout_s
        self._on_failure = on_failure
        self._ends = [rank.watch.remote() for rank in ranks]
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="replica-watcher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching. Idempotent; never blocks."""
        self._is_closed.set()

    def wait_until_dead(self, timeout_s: float) -> bool:
        """Wait until no rank is left (after they were killed). False when some were still there."""
        done, _ = ray.wait(self._ends, num_returns=len(self._ends), timeout=timeout_s)
        return len(done) == len(self._ends)

    def _watch(self) -> None:
        poll_s = min(1.0, self._timeout_s / 4)
        clock, pulse = StallClock(time.monotonic()), self._ranks[0].progress.remote()
        while not self._is_closed.is_set():
            ended, _ = ray.wait(self._ends, num_returns=1, timeout=poll_s)
            if self._is_closed.is_set():
                return
            if ended:
                return self._on_failure(self._find_reason())
            answered, _ = ray.wait([pulse], timeout=0)
            progress = self._read(pulse) if answered else None
            pulse = self._ranks[0].progress.remote() if answered else pulse
            if (
                clock.observe(progress if isinstance(progress, ReplicaHeartbeat) else None, time.monotonic())
                > self._timeout_s
            ):
                return self._on_failure(f"{self._locations[0]} has work but made no step for {self._timeout_s:g} s")
        return None

    def _find_reason(self) -> str:
        """Name the rank that went first: a dead process before one that only lost a connection."""
        ended, _ = ray.wait(self._ends, num_returns=len(self._ends), timeout=_GRACE_S)
        dead, stopped = [], []
        for end in ended:
            location, outcome = self._locations[self._ends.index(end)], self._read(end)
            if isinstance(outcome, RankFailure):
                stopped.append(f"{location} stopped: {outcome.reason}")
            else:
                dead.append(f"{location} {outcome}")
        return (dead + stopped)[0]

    def _read(self, ref: Any) -> Any:
        """The value behind a finished reference; where its rank is dead, how it died."""
        try:
            return ray.get(ref)
        except RayError as error:
            return cause_of_death(error)


def cause_of_death(error: RayError) -> str:
    """What Ray knows of the end of an actor, in a few words that follow its name."""
    text = str(error)
    if "OUT_OF_MEMORY" in text or "running low on memory" in text:
        return "was killed because its node ran out of memory"
    if "node has died" in text or "node died" in text:
        return "died with its node"
    if isinstance(error, RayTaskError):
        return f"failed ({text.strip().splitlines()[-1]})"
    return "died"
