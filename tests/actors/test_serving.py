"""Many callers, one engine: every call gets its own results, in order, or an error, and none waits
forever."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.actors.fakes import prompt
from tirazh.actors.progress import ProgressCounter
from tirazh.actors.serving import EngineLoop
from tirazh.errors import ReplicaError, RequestError
from tirazh.model.requests import Completion, EngineCounters, EngineJob, Request, Result


class ReversingEngine:
    """Finishes one request a step, the last one added first. Fails at token 13."""

    counters = EngineCounters()

    def __init__(self) -> None:
        self.added: list[tuple[int, Request]] = []
        self.sizes_of_adds: list[int] = []
        self._next_id = 0

    @property
    def has_work(self) -> bool:
        return bool(self.added)

    def add_job(self, job: EngineJob) -> int:
        if not job.labels:
            raise RequestError("a job without labels")
        if job.labels == ((13,),):
            raise ZeroDivisionError
        return len(job.labels)

    def add(self, requests: Sequence[Request]) -> list[int]:
        ids = list(range(self._next_id, self._next_id + len(requests)))
        self._next_id += len(requests)
        self.added += zip(ids, requests, strict=True)
        self.sizes_of_adds.append(len(requests))
        return ids

    def cancel(self, ids: Collection[int]) -> None:
        self.added = [(request_id, request) for request_id, request in self.added if request_id not in ids]

    def step(self) -> list[tuple[int, Result]]:
        request_id, request = self.added.pop()
        if tuple(request.prompt_token_ids) == (13,):
            raise ZeroDivisionError
        return [(request_id, Completion(token_ids=tuple(request.prompt_token_ids), finish_reason="length"))]


@contextmanager
def serving(loop: EngineLoop) -> Iterator[None]:
    def serve() -> None:
        try:
            loop.serve()
        except ZeroDivisionError:
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        loop.stop()
        thread.join(timeout=10)
        assert not thread.is_alive()


def make_loop(idle_interval_s: float = 5.0) -> tuple[EngineLoop, ReversingEngine, list[None]]:
    engine, idled = ReversingEngine(), list[None]()
    loop = EngineLoop(
        engine, progress=ProgressCounter(), idle=lambda: idled.append(None), idle_interval_s=idle_interval_s
    )
    return loop, engine, idled


def tokens_of(results: list[Result]) -> list[int]:
    return [result.token_ids[0] for result in results if isinstance(result, Completion)]


def test_results_come_in_the_order_of_the_requests() -> None:
    loop, _, _ = make_loop()
    with serving(loop):
        assert tokens_of(loop.submit([prompt(n) for n in range(10)]).result(10)) == list(range(10))
        assert loop.submit([]).result(10) == []


def test_calls_that_arrive_together_are_given_to_the_engine_together() -> None:
    loop, engine, _ = make_loop()
    first, second = loop.submit([prompt(1), prompt(2)]), loop.submit([prompt(3)])
    assert loop.heartbeat().is_busy
    with serving(loop):
        assert (tokens_of(first.result(10)), tokens_of(second.result(10))) == ([1, 2], [3])
    assert engine.sizes_of_adds == [3]
    assert not loop.heartbeat().is_busy


class Requests(list[Request]):
    """A list that a weak reference can refer to."""


def test_finished_and_cancelled_calls_leave_memory_without_the_garbage_collector() -> None:
    """Ranks collect garbage rarely (`garbage.py`), so a reference cycle would keep the rows of many parts."""
    loop, _, _ = make_loop(idle_interval_s=0.02)
    gc.disable()
    try:
        with serving(loop):
            calls = []
            for number in range(6):
                requests = Requests([prompt(number)] * 3)
                calls.append(weakref.ref(requests))
                future = loop.submit(requests)
                if number % 2:
                    assert len(future.result(10)) == 3
                else:
                    future.cancel()
            del requests, future
            deadline = time.monotonic() + 10
            while any(call() is not None for call in calls) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert [call() for call in calls] == [None] * 6
    finally:
        gc.enable()


def test_every_step_advances_the_heartbeat() -> None:
    loop, _, _ = make_loop()
    with serving(loop):
        loop.submit([prompt(n) for n in range(5)]).result(10)
    assert loop.heartbeat().count >= 5


def test_an_idle_loop_calls_idle_again_and_again() -> None:
    alive = threading.Event()
    loop = EngineLoop(ReversingEngine(), progress=ProgressCounter(), idle=alive.set, idle_interval_s=0.01)
    with serving(loop):
        assert alive.wait(10)


def test_when_the_engine_fails_every_caller_gets_an_error() -> None:
    loop, _, _ = make_loop()
    waiting = loop.submit([prompt(1), prompt(2), prompt(13)])
    with serving(loop):
        with pytest.raises(ReplicaError, match="before these requests were finished"):
            waiting.result(10)
        with pytest.raises(ReplicaError, match="has ended"):
            loop.submit([prompt(1)])


def test_a_job_is_added_while_requests_run_or_refused_alone() -> None:
    loop, _, _ = make_loop()
    added, refused = loop.add_job(EngineJob(labels=((1,), (2,)))), loop.add_job(EngineJob())
    cancelled, running = loop.add_job(EngineJob(labels=((1,),))), loop.submit([prompt(1), prompt(2)])
    cancelled.cancel()
    assert loop.heartbeat().is_busy
    with serving(loop):
        assert added.result(10) == 2
        with pytest.raises(RequestError, match="a job without labels"):
            refused.result(10)
        assert tokens_of(running.result(10)) == [1, 2]
        assert loop.add_job(EngineJob(labels=((1,),))).result(10) == 1
    assert not loop.heartbeat().is_busy


def test_a_job_that_ends_the_engine_gets_an_error_too() -> None:
    loop, _, _ = make_loop()
    failing = loop.add_job(EngineJob(labels=((13,),)))
    with serving(loop):
        with pytest.raises(ReplicaError, match="the engine ended"):
            failing.result(10)
        with pytest.raises(ReplicaError, match="has ended"):
            loop.add_job(EngineJob())


def test_waiting_for_other_ranks_is_work_and_waiting_for_calls_is_not() -> None:
    """Rank 0 sends an idle step to the other ranks. One that is stopped never takes it."""
    has_sent, may_end = threading.Event(), threading.Event()

    def send_idle_step() -> None:
        has_sent.set()
        may_end.wait(10)

    loop = EngineLoop(ReversingEngine(), progress=ProgressCounter(), idle=send_idle_step, idle_interval_s=0.01)
    assert not loop.heartbeat().is_busy
    with serving(loop):
        assert has_sent.wait(10)
        assert loop.heartbeat().is_busy
        may_end.set()


def test_a_cancelled_call_takes_its_requests_from_the_engine_and_leaves_the_others() -> None:
    loop, engine, _ = make_loop()
    first, cancelled, last = (loop.submit([prompt(n), prompt(n + 1)]) for n in (1, 3, 5))
    assert loop._take_calls()
    assert cancelled.cancel()
    assert loop._take_calls()
    assert [request.prompt_token_ids for _, request in engine.added] == [(1,), (2,), (5,), (6,)]
    with serving(loop):
        assert (tokens_of(first.result(10)), tokens_of(last.result(10))) == ([1, 2], [5, 6])
    assert not loop.heartbeat().is_busy


def test_a_call_that_is_cancelled_before_the_engine_has_it_is_never_run() -> None:
    loop, engine, _ = make_loop()
    cancelled, other = loop.submit([prompt(13)]), loop.submit([prompt(2)])
    cancelled.cancel()
    with serving(loop):
        assert tokens_of(other.result(10)) == [2]
    assert engine.sizes_of_adds == [1]


def test_a_call_that_is_cancelled_while_its_last_result_is_computed_ends_nothing() -> None:
    loop, engine, _ = make_loop()
    cancelled, step = loop.submit([prompt(1)]), engine.step

    def step_and_cancel() -> list[tuple[int, Result]]:
        cancelled.cancel()
        return step()

    engine.step = step_and_cancel  # type: ignore[method-assign]
    with serving(loop):
        assert tokens_of(loop.submit([prompt(2)]).result(10)) == [2]


def test_a_cancelled_call_gets_no_error_when_the_engine_fails() -> None:
    loop, _, _ = make_loop()
    waiting, cancelled = loop.submit([prompt(13)]), loop.submit([prompt(1)])
    loop._take_calls()
    cancelled.cancel()
    with serving(loop), pytest.raises(ReplicaError, match="before these requests were finished"):
        waiting.result(10)
    assert cancelled.cancelled()
