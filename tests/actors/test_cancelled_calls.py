"""Calls that are cancelled at any time, on the real scheduler: all others get the results that they get
without cancellations, and the engine ends empty."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.engine.workloads import LABELLED, FakeRunner, Workload, build, mixed_requests
from tirazh.actors.progress import ProgressCounter
from tirazh.actors.serving import EngineLoop
from tirazh.model.engine.batch_engine import BatchEngine
from tirazh.model.requests import Request, Result

WORKLOAD = Workload(waves=(), job=LABELLED, end_token_ids=(11, 12, 13))
Calls = list[tuple[int, tuple[Request, ...]]]  # the step before which a call arrives, and its requests


@st.composite
def calls(draw: st.DrawFn) -> Calls:
    arrivals = draw(
        st.lists(st.tuples(st.integers(0, 25), st.integers(0, 8), st.integers(1, 9)), min_size=1, max_size=6)
    )
    prefix = LABELLED.prefix_token_ids
    return [(step, mixed_requests(seed, count, prefix=prefix)) for step, seed, count in arrivals]


def serve(calls: Calls, cancels: dict[int, int]) -> list[list[Result] | None]:
    """Serve all calls; return the results of each, None where it was cancelled. `cancels[i]` is the step before
    which call i is cancelled, if it is still open."""
    engine = build(WORKLOAD, FakeRunner(WORKLOAD.num_slots, window_size=16, overlaps_steps=False))
    futures: dict[int, Future[list[Result]]] = {}
    number = -1

    def act() -> None:
        """What other threads do between two steps."""
        nonlocal number
        number += 1
        for index, (arrives_at, requests) in enumerate(calls):
            if arrives_at == number:
                futures[index] = loop.submit(requests)
        for index, cancelled_at in cancels.items():
            if cancelled_at == number and index in futures:
                futures[index].cancel()
        if number > 60 and not loop._open:
            loop.stop()

    class Acting(BatchEngine):
        def step(self) -> Any:
            act()
            return super().step()

    engine.__class__ = Acting
    loop = EngineLoop(engine, progress=ProgressCounter(), idle=act, idle_interval_s=0.0001)
    loop.serve()
    assert not engine.has_work
    assert not any(engine.scheduler.slots)
    return [None if futures[index].cancelled() else futures[index].result(0) for index in range(len(calls))]


@settings(max_examples=25)
@given(calls=calls(), cancels=st.dictionaries(st.integers(0, 5), st.integers(0, 60), max_size=6))
def test_cancelled_calls_change_no_result_of_the_others(calls: Calls, cancels: dict[int, int]) -> None:
    expected = serve(calls, {})
    found = serve(calls, cancels)
    assert [results is None or results == expected[index] for index, results in enumerate(found)] == [True] * len(calls)
    assert all(index in cancels for index, results in enumerate(found) if results is None)
