"""Rank 0's engine thread: callers in other threads submit requests, one engine runs them together.

Knows neither Ray nor torch.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import cast

from tirazh.actors.engine_module import Engine
from tirazh.actors.messages import ReplicaHeartbeat
from tirazh.actors.progress import ProgressCounter
from tirazh.errors import ReplicaError, RequestError, TirazhError
from tirazh.model.requests import EngineJob, Request, Result


@dataclass(slots=True, eq=False)
class _Call:
    """One caller's requests, and the results that exist so far.

    A caller may cancel `future` at any time until it has its results.
    """

    requests: Sequence[Request]
    future: Future[list[Result]]
    results: list[Result | None]
    num_missing: int

    def end(self, error: ReplicaError | None) -> None:
        """Give the caller its results, or an error, unless it has cancelled the call."""
        if not self.future.set_running_or_notify_cancel():
            return
        if error is None:
            self.future.set_result(cast("list[Result]", self.results))
        else:
            self.future.set_exception(error)


@dataclass(slots=True, eq=False)
class _NewJob:
    """A job that a caller adds; `future` gives its index."""

    job: EngineJob
    future: Future[int]

    def end(self, outcome: int | TirazhError) -> None:
        """Give the caller the index, or an error, unless it has cancelled the call."""
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, int):
            self.future.set_result(outcome)
        else:
            self.future.set_exception(outcome)


_Arrival = _Call | _NewJob | Future[list[Result]] | None


class EngineLoop:
    """Runs an engine until it fails or is stopped. Call `submit` and `add_job` from any thread, `serve`
    in one.

    A caller gives its call up by cancelling the future that `submit` returns. The engine then drops
    the call's requests before its next step; other calls are not affected. `idle` is called
    whenever `idle_interval_s` has passed without work. `progress` is the counter to which the
    engine's steps report.
    """

    def __init__(
        self, engine: Engine, *, progress: ProgressCounter, idle: Callable[[], None], idle_interval_s: float
    ) -> None:
        self.engine = engine
        self._progress = progress
        self._idle = idle
        self._idle_interval_s = idle_interval_s
        # New calls and jobs, and the futures of cancelled calls; None: stop.
        self._inbox: queue.SimpleQueue[_Arrival] = queue.SimpleQueue()
        self._open: set[_Call | _NewJob] = set()
        self._waiting: dict[int, tuple[_Call, int]] = {}  # request id: its call, and its index there
        self._lock = threading.Lock()  # guards `_open` and `_has_ended`
        self._has_ended = False
        self._is_idling = False

    def submit(self, requests: Sequence[Request]) -> Future[list[Result]]:
        """Queue requests. The future gives their results in order, or ReplicaError when the engine
        ends first.

        Raises ReplicaError when the engine has ended already.
        """
        call = _Call(requests, Future(), [None] * len(requests), len(requests))
        if not requests:
            call.future.set_result([])
            return call.future
        self._open_call(call)
        # The callback must not refer to the call, which refers to the future: such a cycle keeps the
        # requests and results of all calls in memory until the garbage collector runs.
        call.future.add_done_callback(lambda future: self._inbox.put(future) if future.cancelled() else None)
        self._inbox.put(call)
        return call.future

    def add_job(self, job: EngineJob) -> Future[int]:
        """Add a job to the engine before its next step. The future gives the job's index, RequestError
        for a job that cannot be run, or ReplicaError when the engine ends first.

        Raises ReplicaError when the engine has ended already.
        """
        new = _NewJob(job, Future())
        self._open_call(new)
        self._inbox.put(new)
        return new.future

    def heartbeat(self) -> ReplicaHeartbeat:
        """Return how much is done so far and whether something is expected of the ranks. May be
        called from any thread."""
        return ReplicaHeartbeat(
            count=self._progress.count,
            is_busy=bool(self._open) or self._is_idling,
            slowest_s=self._progress.slowest_s,
        )

    def stop(self) -> None:
        """Let `serve` return after its current step."""
        self._inbox.put(None)

    def serve(self) -> None:
        """Run until `stop`. Whatever ends it, every unfinished call gets an error."""
        try:
            while self._take_calls():
                self._progress.begin()
                if self.engine.has_work:
                    for request_id, result in self.engine.step():
                        self._deliver(request_id, result)
                else:
                    self._pass_idle_time()
                self._progress.beat()
        finally:
            self._fail_open_calls()

    def _open_call(self, call: _Call | _NewJob) -> None:
        with self._lock:
            if self._has_ended:
                raise ReplicaError("the engine of this replica has ended")
            self._open.add(call)

    def _pass_idle_time(self) -> None:
        self._is_idling = True
        self._idle()
        self._is_idling = False

    def _take_calls(self) -> bool:
        """Hand all jobs and calls that have arrived to the engine, and take back the calls that were
        cancelled; wait for some while it has no work. False: stop."""
        arrived = self._arrivals()
        for new in arrived:
            if isinstance(new, _NewJob):
                self._add_job(new)
        calls = [call for call in arrived if isinstance(call, _Call) and not call.future.cancelled()]
        cancelled = {future for future in arrived if isinstance(future, Future)}
        owners = [(call, index) for call in calls for index in range(len(call.requests))]
        ids = self.engine.add([call.requests[index] for call, index in owners]) if owners else []
        self._waiting.update(zip(ids, owners, strict=True))
        if cancelled:
            self._drop(cancelled)
        return None not in arrived

    def _add_job(self, new: _NewJob) -> None:
        outcome: int | RequestError
        try:
            outcome = self.engine.add_job(new.job)
        except RequestError as error:
            outcome = error
        with self._lock:
            self._open.discard(new)
        new.end(outcome)

    def _arrivals(self) -> list[_Arrival]:
        arrived: list[_Arrival] = []
        try:
            if not self.engine.has_work:
                arrived.append(self._inbox.get(timeout=self._idle_interval_s))
            while True:
                arrived.append(self._inbox.get_nowait())
        except queue.Empty:
            return arrived

    def _drop(self, cancelled: set[Future[list[Result]]]) -> None:
        ids = {request_id for request_id, (call, _) in self._waiting.items() if call.future in cancelled}
        for request_id in ids:
            del self._waiting[request_id]
        if ids:
            self.engine.cancel(ids)
        with self._lock:
            self._open = {call for call in self._open if call.future not in cancelled}

    def _deliver(self, request_id: int, result: Result) -> None:
        call, index = self._waiting.pop(request_id)
        call.results[index] = result
        call.num_missing -= 1
        if not call.num_missing:
            with self._lock:
                self._open.discard(call)
            call.end(None)

    def _fail_open_calls(self) -> None:
        with self._lock:
            self._has_ended = True
            calls, self._open = self._open, set()
        for call in calls:
            call.end(ReplicaError("the engine ended before these requests were finished"))
