"""The Ray actor that is one rank of a replica: it holds one slice of the weights.

Made by `replica.py`. Everything of torch happens in one thread of its own, so that the actor always answers. Rank 0
owns the engine and serves `run`; the others execute the step plans that rank 0 broadcasts.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from importlib.metadata import version
from typing import Any

import ray

from tirazh.actors import rendezvous
from tirazh.actors.garbage import collect_rarely
from tirazh.actors.messages import RankFailure, RankLocation, RankReady, ReplicaConfig, ReplicaHeartbeat
from tirazh.actors.rendezvous import RankPlace
from tirazh.actors.serving import EngineLoop
from tirazh.errors import ReplicaError, TirazhError
from tirazh.model.requests import EngineCounters, Request, Result

logger = logging.getLogger(__name__)

_ENGINES = {"model": "tirazh.actors.model_engine", "echo": "tirazh.actors.echo"}
_VERSIONS_OF = ("torch", "deepspeed", "transformers", "ray")


class Rank:
    """One rank. Async methods only: Ray then runs them beside each other. Never restarted, see `Replica`."""

    def __init__(self, config: ReplicaConfig, rank: int) -> None:
        collect_rarely()
        self._config = config
        self._rank = rank
        self._store: Any = None
        self._loop: Future[EngineLoop] = Future()
        self._ready: Future[RankReady | RankFailure] = Future()
        self._ended: Future[RankFailure] = Future()

    async def locate(self) -> RankLocation:
        """Say where this rank runs."""
        return RankLocation(
            rank=self._rank,
            node_id=ray.get_runtime_context().get_node_id(),
            address=ray.util.get_node_ip_address(),
            pid=os.getpid(),
            cores=rendezvous.usable_cores(),
        )

    async def open_port(self, place: RankPlace) -> int:
        """On rank 0: open the store at which the ranks meet. Returns its port."""
        self._store = rendezvous.open_store(place, timeout_s=self._config.start_timeout_s)
        return int(self._store.port)

    async def start(self, place: RankPlace) -> RankReady | RankFailure:
        """Load this rank's weights and begin to serve. Returns when it can, or why it cannot."""
        threading.Thread(target=self._work, args=(place,), name="engine", daemon=True).start()
        return await asyncio.wrap_future(self._ready)

    async def watch(self) -> RankFailure:
        """Return when this rank has stopped working, and why; never returns while it works."""
        return await asyncio.shield(asyncio.wrap_future(self._ended))

    async def run(self, requests: Sequence[Request]) -> list[Result]:
        """On rank 0: run requests; several calls share the slots. Results in request order."""
        loop = await asyncio.wrap_future(self._loop)
        return await asyncio.wrap_future(loop.submit(requests))

    async def progress(self) -> ReplicaHeartbeat:
        """On rank 0: its pulse."""
        return self._loop.result().progress() if self._loop.done() else ReplicaHeartbeat(beats=0, is_busy=False)

    async def counters(self) -> EngineCounters:
        """On rank 0: the engine's totals."""
        loop = await asyncio.wrap_future(self._loop)
        return loop.engine.counters

    def _work(self, place: RankPlace) -> None:
        """The engine thread, from the first import to the last step."""
        try:
            self._serve(place)
        except BaseException as error:  # the process boundary: nothing may end a rank in silence
            logger.exception("rank %d stopped", self._rank)
            failure = self._describe_failure(error)
        else:
            failure = self._describe_failure(ReplicaError("the engine was stopped"))
        if not self._ready.done():
            self._ready.set_result(failure)
        self._ended.set_result(failure)

    def _serve(self, place: RankPlace) -> None:
        rendezvous.enter(place, device=self._config.device)
        engine_module = importlib.import_module(_ENGINES.get(self._config.engine, self._config.engine))
        if place.world_size == 1:
            runner = engine_module.build_runner(self._config, place)
            self._lead(engine_module, runner, place, idle=lambda: None)
        else:
            self._serve_together(engine_module, place)

    def _serve_together(self, engine_module: Any, place: RankPlace) -> None:
        from tirazh.actors.step_channel import LeadRunner, StepChannel, follow

        rendezvous.join(place, device=self._config.device, timeout_s=self._config.start_timeout_s, store=self._store)
        runner = engine_module.build_runner(self._config, place)
        rendezvous.wait_for_all()
        channel = StepChannel(timeout_s=self._config.rank_timeout_s)
        if place.rank == 0:
            self._lead(engine_module, LeadRunner(runner, channel), place, idle=lambda: channel.send(None))
        else:
            self._ready.set_result(self._describe_ready(engine_module, place, runner))
            follow(runner, channel)

    def _lead(self, engine_module: Any, runner: Any, place: RankPlace, *, idle: Callable[[], None]) -> None:
        """Build the engine upon the runner and serve it."""
        loop = EngineLoop(
            engine_module.build_engine(self._config, runner),
            idle=idle,
            idle_interval_s=self._config.rank_timeout_s / 4,
        )
        self._loop.set_result(loop)
        self._ready.set_result(self._describe_ready(engine_module, place, runner))
        loop.serve()

    def _describe_ready(self, engine_module: Any, place: RankPlace, runner: Any) -> RankReady:
        return RankReady(
            rank=place.rank,
            threads=place.threads,
            weight_bytes=engine_module.count_weight_bytes(runner),
            versions={name: version(name) for name in _VERSIONS_OF},
        )

    def _describe_failure(self, error: BaseException) -> RankFailure:
        reason = str(error) if isinstance(error, TirazhError) else f"{type(error).__name__}: {error}"
        return RankFailure(
            rank=self._rank,
            reason=reason.strip() or type(error).__name__,
            error=error if isinstance(error, TirazhError) else None,
        )
