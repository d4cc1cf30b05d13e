"""Real ranks for tests: processes on this machine in one gloo process group, as the ranks of a replica are."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tirazh.actors import rendezvous
from tirazh.actors.messages import RankLocation

# The first use on a machine compiles DeepSpeed's all-reduce: a minute of one core.
_TIMEOUT_S = 280.0


class RankPool:
    """`run(function, ...)` calls a top-level function in every rank at once and returns their results in order."""

    def __init__(self, pools: list[ProcessPoolExecutor]) -> None:
        self._pools = pools

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        futures = [pool.submit(function, *arguments) for pool in self._pools]
        return [future.result(timeout=_TIMEOUT_S) for future in futures]


@contextmanager
def run_distributed(world_size: int) -> Iterator[RankPool]:
    """Start that many ranks, each in its own process, and let them join the group."""
    locations = [
        RankLocation(rank=rank, node_id="here", address="127.0.0.1", pid=0, cores=world_size)
        for rank in range(world_size)
    ]
    rank_places = rendezvous.assign_ranks(locations)
    store = rendezvous.open_store(rank_places[0], timeout_s=_TIMEOUT_S)
    context = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, mp_context=context) for _ in rank_places]
    try:
        joined = [
            pool.submit(_join, replace(rank_place, port=store.port))
            for pool, rank_place in zip(pools, rank_places, strict=True)
        ]
        for future in joined:
            future.result(timeout=_TIMEOUT_S)
        yield RankPool(pools)
    finally:
        processes = [process for pool in pools for process in (pool._processes or {}).values()]
        for process in processes:
            process.kill()  # ranks may wait for each other forever
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)


_rank_place: rendezvous.RankPlace | None = None


def _join(rank_place: rendezvous.RankPlace) -> None:
    global _rank_place
    rendezvous.enter(rank_place, device="cpu")
    rendezvous.join(rank_place, device="cpu", timeout_s=_TIMEOUT_S)
    _rank_place = rank_place


def own_place() -> rendezvous.RankPlace:
    """In a rank: return its `RankPlace`."""
    assert _rank_place is not None, "this process is no rank of run_distributed"
    return _rank_place
