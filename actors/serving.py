"""Rank 0's engine thread: many callers hand in requests, one engine runs them together.

Called by `rank.py`. Knows neither Ray nor torch; the engine is anything with `add`, `step`, `has_work`, `counters`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol, cast

from tirazh.actors.messages import ReplicaHeartbeat
from tirazh.errors import ReplicaError
from tirazh.model.requests import EngineCounters, Request, Result


class ServedEngine(Protocol):
    """What serving needs of an engine."""

    @property
    def has_work(self) -> bool: ...

    @property
    def counters(self) -> EngineCounters: ...

    def add(self, requests: Sequence[Request]) -> list[int]: ...

    def step(self) -> list[tuple[int, Result]]: ...


@dataclass(slots=True, eq=False)
class _Call:
    """One caller's requests and the results that have come so far."""

    requests: Sequence[Request]
    future: Future[list[Result]]
    results: list[Result | None]
    missing: int


class EngineLoop:
    """Runs an engine until it fails or is stopped. `submit` from any thread, `serve` in one.

    `idle` is called whenever `idle_interval_s` went by without work.
    """

    def __init__(self, engine: ServedEngine, *, idle: Callable[[], None], idle_interval_s: float) -> None:
        self.engine = engine
        self._idle = idle
        self._idle_interval_s = idle_interval_s
        self._inbox: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._open: set[_Call] = set()
        self._waiting: dict[int, tuple[_Call, int]] = {}
        self._lock = threading.Lock()
        self._is_over = False
        self._beats = 0

    def submit(self, requests: Sequence[Request]) -> Future[list[Result]]:
        """Queue requests; the future gives their results in order, or ReplicaError when the engine ends first."""
        call = _Call(requests, Future(), [None] * len(requests), len(requests))
        if not requests:
            call.future.set_result([])
            return call.future
        with self._lock:
            if self._is_over:
                raise ReplicaError("the engine of this replica has ended")
            self._open.add(call)
        self._inbox.put(call)
        return call.future

    def progress(self) -> ReplicaHeartbeat:
        return ReplicaHeartbeat(beats=self._beats, is_busy=bool(self._open))

    def stop(self) -> None:
        """Let `serve` return after its current step."""
        self._inbox.put(None)

    def serve(self) -> None:
        """Run until `stop`. Whatever ends it, no caller is left waiting."""
        try:
            while self._admit():
                if self.engine.has_work:
                    for request_id, result in self.engine.step():
                        self._deliver(request_id, result)
                else:
                    self._idle()
                self._beats += 1
        finally:
            self._abandon()

    def _admit(self) -> bool:
        """Hand all that has arrived to the engine, waiting a while where it has nothing to do. False: stop."""
        calls = self._take_arrived()
        places = [(call, index) for call in calls if call is not None for index in range(len(call.requests))]
        ids = self.engine.add([call.requests[index] for call, index in places]) if places else []
        self._waiting.update(zip(ids, places, strict=True))
        return None not in calls

    def _take_arrived(self) -> list[_Call | None]:
        calls: list[_Call | None] = []
        try:
            if not self.engine.has_work:
                calls.append(self._inbox.get(timeout=self._idle_interval_s))
            while True:
                calls.append(self._inbox.get_nowait())
        except queue.Empty:
            return calls

    def _deliver(self, request_id: int, result: Result) -> None:
        call, index = self._waiting.pop(request_id)
        call.results[index] = result
        call.missing -= 1
        if not call.missing:
            with self._lock:
                self._open.discard(call)
            call.future.set_result(cast("list[Result]", call.results))

    def _abandon(self) -> None:
        with self._lock:
            self._is_over = True
            calls, self._open = self._open, set()
        for call in calls:
            call.future.set_exception(ReplicaError("the engine ended before these requests were finished"))
