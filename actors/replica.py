"""A replica, that is one whole copy of the model: it starts its ranks together, runs requests on
them and ends as a whole.

A replica is never repaired: when one rank dies, all are killed, and the owner of the replica starts
a new one. Imports no torch.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

import ray
from ray.exceptions import RayError, TaskCancelledError
from ray.util.placement_group import PlacementGroup, remove_placement_group

from tirazh.actors import placement
from tirazh.actors.messages import RankFailure, RankLocation, RankReady, ReplicaConfig
from tirazh.actors.rank import make_rank
from tirazh.actors.rank_handle import RankHandle, RemoteMethod
from tirazh.actors.rank_pool import RankPoolClient
from tirazh.actors.rendezvous import assign_ranks
from tirazh.actors.watch import Watcher, cause_of_death
from tirazh.errors import ReplicaError
from tirazh.model.requests import EngineCounters, EngineJob, Request, Result

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

# How long a failed call waits for the watcher to report which rank failed and why.
_EXPLAIN_S = 10.0
_CLOSE_S = 5.0
# How often the owner of a replica asks what its start waits for.
_PHASE_EVERY_S = 1.0


class Replica:
    """`tensor_parallel` ranks that hold one model. `ready` and `locations` describe them, in rank
    order.

    The constructor blocks until all ranks serve; meanwhile `on_phase` receives what it waits for, such as "loading the
    model". Raises ReplicaError when they do not within
    `start_timeout_s`, and the error of a rank (CheckpointError and others) when the request itself
    is wrong.
    """

    ready: list[RankReady]
    locations: list[RankLocation]

    def __init__(self, config: ReplicaConfig, *, on_phase: Callable[[str], None] = lambda phase: None) -> None:
        self.config = config
        self._on_phase = on_phase
        self._deadline = time.monotonic() + config.start_timeout_s
        self._failure: Future[str] = Future()
        self._lock = threading.Lock()
        self._watcher: Watcher | None = None
        self._ranks: list[RankHandle] = []
        self._ranks_before: EngineCounters | None = None
        self._pool = RankPoolClient.find(config.rank_pool)
        self._pooled: int | None = None
        self._group: PlacementGroup | None = None
        self._jobs = list(range(len(config.jobs)))
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def __del__(self) -> None:
        """Free the ranks, or leave them to the pool: Ray Data drops its actors' objects without calling `close`."""
        if not hasattr(self, "_group"):
            return
        if self._pooled is not None and self._watcher is not None and not self._failure.done():
            self._watcher.close()
        else:
            self._end("the replica was garbage-collected without close()")

    async def run(self, requests: Sequence[Request]) -> list[Result]:
        """Run requests and return their results in the same order. Calls that run at the same time
        share the slots. Raises ReplicaError when the replica has ended, or ends before it has the
        results."""
        numbers = self._jobs
        if numbers != list(range(len(numbers))):  # the ranks have jobs of earlier owners
            requests = [replace(request, job=numbers[request.job]) for request in requests]
        return await self._call(lambda rank: rank.run, list(requests))

    async def add_job(self, job: EngineJob) -> int:
        """Add a job and return the index by which requests name it; an equal job keeps the index that it
        has. Whoever starts another replica after a failure adds it again.

        Raises RequestError for a job that cannot be run, and ReplicaError when the replica has ended.
        """
        index = await self._call(lambda rank: rank.add_job, job)
        if isinstance(index, RankFailure):
            raise index.error or ReplicaError(f"the replica could not take another job: {index.reason}")
        if index not in self._jobs:
            self._jobs.append(index)
        return self._jobs.index(index)

    async def counters(self) -> EngineCounters:
        """Return the engine's totals since this replica started. Raises ReplicaError when it has ended."""
        totals = await self._call(lambda rank: rank.counters)
        return totals if self._ranks_before is None else totals.since(self._ranks_before)

    def close(self) -> None:
        """Kill every rank and free its resources. Idempotent; takes a few seconds at most."""
        self._end("the replica was closed")
        if self._watcher is not None and ray.is_initialized() and not self._watcher.wait_until_dead(_CLOSE_S):
            logger.warning("some ranks of a closed replica were still alive after %g s", _CLOSE_S)

    def _start(self) -> None:
        if not self._take_over():
            self._start_ranks()
        self._watcher = Watcher(
            self._ranks,
            self.locations,
            timeout_s=self.config.rank_timeout_s,
            ceiling_s=self.config.start_timeout_s,
            on_failure=_weakly(self._end),
        )

    def _take_over(self) -> bool:
        """Take the ranks of an earlier step from the pool. Returns whether there are any that answer."""
        found = self._pool.take(_owner(), self.config) if self._pool is not None else None
        if found is None:
            return False
        self._ranks, self._group, self._pooled = found.ranks, found.group, found.id
        self.locations, self.ready = found.locations, found.ready
        try:
            self._ranks_before = ray.get(self._ranks[0].counters.remote(), timeout=_EXPLAIN_S)
            self._jobs = [self._added(job) for job in self.config.jobs]
        except RayError as error:
            logger.warning("the ranks of an earlier step do not answer (%s); new ones are started", error)
            self._release()
            return False
        return True

    def _added(self, job: EngineJob) -> int:
        index = ray.get(self._ranks[0].add_job.remote(job), timeout=self.config.start_timeout_s)
        if isinstance(index, RankFailure):
            raise index.error or ReplicaError(f"the replica could not take another job: {index.reason}")
        return int(index)

    def _reserve(self) -> tuple[PlacementGroup, Callable[[], list[RankHandle]]]:
        """Request the resources of the ranks. Returns their placement group and a function that makes the ranks."""
        pool, config = self._pool, self.config
        reserved = pool.reserve(_owner(), config) if pool is not None else None
        if pool is None or reserved is None:
            group = placement.reserve(config)
            return group, lambda: [make_rank(config, rank, group) for rank in range(config.tensor_parallel)]
        self._pooled, group = reserved
        pooled = self._pooled

        def make() -> list[RankHandle]:
            made = pool.make(pooled, config)
            if made is None:
                raise ReplicaError("the ranks of the replica could not be made")
            return made

        return group, make

    def _start_ranks(self) -> None:
        self._on_phase("cluster resources")
        self._group, make = self._reserve()
        placement.wait_for(self._group, self.config)
        self._on_phase("the replica's processes")
        self._ranks = make()
        self.locations = self._gather([rank.locate.remote() for rank in self._ranks], "answer")
        rank_places = assign_ranks(self.locations, threads_per_rank=self.config.threads_per_rank, ray_cpus=_ray_cpus())
        if len(rank_places) > 1:
            (port,) = self._gather([self._ranks[0].open_port.remote(rank_places[0])], "open a port")
            rank_places = [replace(rank_place, port=port) for rank_place in rank_places]
        starts = [rank.start.remote(rank_place) for rank, rank_place in zip(self._ranks, rank_places, strict=True)]
        self.ready = self._gather(starts, "load the model", while_waiting=self._report_phase)
        if self._pool is not None and self._pooled is not None:
            self._pool.started(self._pooled, self.locations, self.ready)

    def _report_phase(self) -> None:
        """Ask rank 0 what its start waits for."""
        with suppress(RayError):  # the call that waits for its start reports a death too
            self._on_phase(ray.get(self._ranks[0].phase.remote(), timeout=_PHASE_EVERY_S))

    def _gather(
        self,
        refs: Sequence[Awaitable[ResultT | RankFailure]],
        doing: str,
        *,
        while_waiting: Callable[[], None] = lambda: None,
    ) -> list[ResultT]:
        """Wait for one answer of each rank, and call `while_waiting` once a second. Raises the error of the first rank
        that fails."""
        pending = list(refs)
        while pending:
            left_s = self._deadline - time.monotonic()
            done, pending = ray.wait(pending, timeout=max(0.0, min(left_s, _PHASE_EVERY_S)))
            if not done and left_s > 0:
                while_waiting()
                continue
            if not done:
                late = ", ".join(str(refs.index(ref)) for ref in pending)
                raise ReplicaError(
                    f"rank {late} of the replica did not {doing} within {self.config.start_timeout_s:g} s"
                )
            self._check(done[0], refs.index(done[0]), doing)
        return list(ray.get(refs))

    def _check(self, ref: Awaitable[object], rank: int, doing: str) -> None:
        try:
            outcome = ray.get(ref)
        except RayError as error:
            raise ReplicaError(f"rank {rank} of the replica {cause_of_death(error)} before it could {doing}") from None
        if isinstance(outcome, RankFailure):
            raise outcome.error or ReplicaError(f"rank {rank} of the replica could not {doing}: {outcome.reason}")

    async def _call(self, method_of: Callable[[RankHandle], RemoteMethod[ResultT]], *arguments: object) -> ResultT:
        """Call a method of rank 0. Where this call is cancelled, so is rank 0's."""
        if self._failure.done():
            raise ReplicaError(self._failure.result())
        call = method_of(self._ranks[0]).remote(*arguments)
        try:
            return await call
        except asyncio.CancelledError:
            ray.cancel(call)
            raise
        except TaskCancelledError as error:
            raise asyncio.CancelledError(str(error)) from None
        except RayError:
            raise ReplicaError(await self._explain()) from None

    async def _explain(self) -> str:
        """Wait for the reason of a failure: the watcher finds it a little later than the failed
        call."""
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._failure)), _EXPLAIN_S)
        except TimeoutError:
            return "rank 0 of the replica failed; its log has the reason"

    def _end(self, reason: str) -> None:
        """Kill all ranks, once. Later calls raise ReplicaError with `reason`."""
        with self._lock:
            if self._failure.done():
                return
            self._failure.set_result(reason)
        if self._watcher is not None:
            self._watcher.close()
        if not ray.is_initialized():  # the ranks ended with Ray; a call would start a new Ray
            return
        self._release()

    def _release(self) -> None:
        """Kill the ranks and free their resources."""
        for rank in self._ranks:
            ray.kill(rank, no_restart=True)
        if self._pool is not None and self._pooled is not None:
            self._pool.drop(self._pooled)
            self._pooled = None
        elif self._group is not None:
            remove_placement_group(self._group)


def _owner() -> str:
    """A name of the process that owns the replica, which stays the same when Ray restarts it."""
    return ray.get_runtime_context().get_actor_id() or str(os.getpid())


def _weakly(method: Callable[[str], None]) -> Callable[[str], None]:
    """Return a function that calls the method only while its object lives: the watcher's thread
    must not keep a replica alive."""
    weak = weakref.WeakMethod(method)

    def call(reason: str) -> None:
        target = weak()
        if target is not None:
            target(reason)

    return call


def _ray_cpus() -> dict[str, float]:
    """Return the CPUs that Ray has on each node, by the node's id."""
    return {node["NodeID"]: float(node["Resources"].get("CPU", 0)) for node in ray.nodes()}
