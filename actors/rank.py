"""The Ray actor that is one rank of a replica. It holds one tensor-parallel shard of the weights.

All work with torch happens in one thread of its own, so that the actor can always answer. Rank 0
owns the engine and serves `run`; the other ranks execute the steps that rank 0 broadcasts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tirazh.actors import rendezvous
from tirazh.actors.engine_module import EngineModule, RunnerT, load_engine_module
from tirazh.actors.garbage import collect_rarely
from tirazh.actors.messages import DType, RankFailure, RankLocation, RankReady, ReplicaConfig, ReplicaHeartbeat
from tirazh.actors.progress import ProgressCounter
from tirazh.actors.rank_handle import RankHandle
from tirazh.actors.rendezvous import RankPlace
from tirazh.actors.serving import EngineLoop
from tirazh.errors import ReplicaError, RequestError, TirazhError
from tirazh.model.requests import EngineCounters, EngineJob, Request, Result

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

logger = logging.getLogger(__name__)

_VERSIONS_OF = ("torch", "deepspeed", "transformers", "ray")

ValueT = TypeVar("ValueT")


class Rank:
    """One rank. All methods are async, so Ray runs several calls at once. Never restarted, see
    `Replica`."""

    def __init__(self, config: ReplicaConfig, rank: int) -> None:
        collect_rarely()
        self._config = config
        self._rank = rank
        self._store: TCPStore | None = None
        self._progress = ProgressCounter()
        self._loop: Future[EngineLoop] = Future()
        self._ready: Future[RankReady | RankFailure] = Future()
        self._ended: Future[RankFailure] = Future()

    async def locate(self) -> RankLocation:
        """Return where this rank runs."""
        return RankLocation(
            rank=self._rank,
            node_id=ray.get_runtime_context().get_node_id(),
            address=ray.util.get_node_ip_address(),
            pid=os.getpid(),
            cores=rendezvous.usable_cores(),
        )

    async def open_port(self, rank_place: RankPlace) -> int:
        """On rank 0: open the store through which the ranks connect. Returns its port."""
        self._store = rendezvous.open_store(rank_place, timeout_s=self._config.start_timeout_s)
        return int(self._store.port)

    async def start(self, rank_place: RankPlace) -> RankReady | RankFailure:
        """Load this rank's weights and start to serve. Returns once it serves, or why it cannot."""
        threading.Thread(target=self._run_engine_thread, args=(rank_place,), name="engine", daemon=True).start()
        return await _read(self._ready)

    async def phase(self) -> str:
        """Return what this rank's start waits for."""
        return self._progress.phase

    async def watch(self) -> RankFailure:
        """Return why this rank has stopped, as soon as it has; does not return while it works."""
        return await _read(self._ended)

    async def run(self, requests: Sequence[Request]) -> list[Result]:
        """On rank 0: run requests; several calls share the slots. Returns results in the order of
        the requests. A call that is cancelled gives up its own requests only."""
        loop = await _read(self._loop)
        return await asyncio.wrap_future(loop.submit(requests))

    async def add_job(self, job: EngineJob) -> int | RankFailure:
        """On rank 0: add a job to the engine. Returns its index, or why the job cannot be run."""
        loop = await _read(self._loop)
        try:
            return await asyncio.wrap_future(loop.add_job(job))
        except RequestError as error:
            return self._describe_failure(error)

    async def heartbeat(self) -> ReplicaHeartbeat:
        """On rank 0: return its heartbeat."""
        return self._loop.result().heartbeat() if self._loop.done() else ReplicaHeartbeat(count=0, is_busy=False)

    async def counters(self) -> EngineCounters:
        """On rank 0: return the engine's totals."""
        loop = await _read(self._loop)
        return loop.engine.counters

    def _run_engine_thread(self, rank_place: RankPlace) -> None:
        """Everything that this rank does with torch, from the first import to the last step."""
        try:
            self._serve(rank_place)
        except BaseException as error:  # the process boundary: a rank always reports why it ended
            logger.exception("rank %d stopped", self._rank)
            failure = self._describe_failure(error)
        else:
            failure = self._describe_failure(ReplicaError("the engine was stopped"))
        if not self._ready.done():
            self._ready.set_result(failure)
        self._ended.set_result(failure)

    def _serve(self, rank_place: RankPlace) -> None:
        rendezvous.enter(rank_place, device=self._config.device)
        self._progress.phase = "importing libraries"
        engine_module = load_engine_module(self._config.engine)
        if rank_place.world_size == 1:
            runner = engine_module.build_runner(self._config, rank_place, self._progress)
            self._lead(engine_module, runner, runner.execute, rank_place, idle=lambda: None)
        else:
            self._serve_together(engine_module, rank_place)

    def _serve_together(self, engine_module: EngineModule[RunnerT], rank_place: RankPlace) -> None:
        from tirazh.actors.step_channel import StepChannel, follow, on_all_ranks

        # The watcher's limit may grow to the greater of the two (`watch.py`). A rank that waits for a
        # slow one must not give up before the watcher does.
        timeout_s = 2 * max(self._config.start_timeout_s, self._config.rank_timeout_s)
        rendezvous.join(rank_place, device=self._config.device, timeout_s=timeout_s, store=self._store)
        runner = engine_module.build_runner(self._config, rank_place, self._progress)
        rendezvous.wait_for_all()
        channel = StepChannel[Any](timeout_s=timeout_s)
        if rank_place.rank == 0:
            execute = on_all_ranks(runner.execute, channel)
            self._lead(engine_module, runner, execute, rank_place, idle=lambda: channel.send(None))
        else:
            self._ready.set_result(self._describe_ready(engine_module, rank_place, runner))
            follow(runner.execute, channel)

    def _lead(
        self,
        engine_module: EngineModule[RunnerT],
        runner: RunnerT,
        execute: Callable[[Any], Any],
        rank_place: RankPlace,
        *,
        idle: Callable[[], None],
    ) -> None:
        """Build the engine on rank 0 and serve it. `execute` runs a step on every rank."""
        loop = EngineLoop(
            engine_module.build_engine(self._config, runner, execute),
            progress=self._progress,
            idle=idle,
            idle_interval_s=self._config.rank_timeout_s / 4,
        )
        self._loop.set_result(loop)
        self._ready.set_result(self._describe_ready(engine_module, rank_place, runner))
        loop.serve()

    def _describe_ready(
        self, engine_module: EngineModule[RunnerT], rank_place: RankPlace, runner: RunnerT
    ) -> RankReady:
        return RankReady(
            rank=rank_place.rank,
            threads=rank_place.threads,
            weight_bytes=engine_module.count_weight_bytes(runner),
            versions={name: version(name) for name in _VERSIONS_OF} | _kernel_versions(self._config.dtype),
        )

    def _describe_failure(self, error: BaseException) -> RankFailure:
        reason = str(error) if isinstance(error, TirazhError) else f"{type(error).__name__}: {error}"
        return RankFailure(
            rank=self._rank,
            reason=reason.strip() or type(error).__name__,
            error=error if isinstance(error, TirazhError) else None,
        )


def make_rank(config: ReplicaConfig, rank: int, group: PlacementGroup) -> RankHandle:
    """Make the actor of a rank in its bundle of a placement group. It ends with the process that calls this."""
    actor_class = ray.remote(Rank).options(
        num_cpus=config.cpus_per_rank,
        num_gpus=1 if config.device == "cuda" else 0,
        max_restarts=0,
        max_task_retries=0,
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
    )
    handle: RankHandle = actor_class.remote(config, rank)
    return handle


def _kernel_versions(dtype: DType) -> dict[str, str]:
    """Return which kernels run here and, for int8, the dtype of everything else; nothing for an engine that has not
    loaded torch."""
    if "torch" not in sys.modules:
        return {}
    from tirazh.model.kernels.build import kernel_versions

    if dtype != "int8":
        return kernel_versions()
    from tirazh.model.layers.int8_linear import activation_dtype

    wide = str(activation_dtype()).removeprefix("torch.")
    return kernel_versions() | {"int8": f"linear layers in 8 bits, everything else in {wide}"}


async def _read(future: Future[ValueT]) -> ValueT:
    """Wait for a future that several calls read: a call that is cancelled must not cancel it."""
    return await asyncio.shield(asyncio.wrap_future(future))
