"""The interface between a rank and the engine that it runs, and the registry of engines.

An engine is a module with three functions: every rank calls `build_runner`, rank 0 builds the
engine on top of its runner with `build_engine`. `echo.py` is the smallest example.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, TypeVar, cast

from tirazh.actors.messages import ENGINES, MODULE_PREFIX, ReplicaConfig
from tirazh.actors.progress import ProgressCounter
from tirazh.actors.rendezvous import RankPlace
from tirazh.model.requests import EngineCounters, EngineJob, Request, Result


class Runner(Protocol):
    """What one rank holds. It executes steps, whose type and output only its engine module knows."""

    def execute(self, step: Any, /) -> Any: ...


class Engine(Protocol):
    """Runs requests step by step. One thread calls it. The jobs of the config are there from the start."""

    @property
    def has_work(self) -> bool: ...

    @property
    def counters(self) -> EngineCounters: ...

    def add_job(self, job: EngineJob) -> int:
        """Return the index by which requests name a job; an equal job keeps the index that it has.

        Raises RequestError for a job that cannot be run.
        """
        ...

    def add(self, requests: Sequence[Request]) -> list[int]:
        """Queue requests and return their ids, in the same order."""
        ...

    def cancel(self, ids: Collection[int]) -> None:
        """Give up the requests of these ids, which are unfinished: free what they hold, and never
        return results for them. All other requests get the results that they get without it."""
        ...

    def step(self) -> list[tuple[int, Result]]:
        """Run one step; return the requests that it finished, as (id, result)."""
        ...


RunnerT = TypeVar("RunnerT", bound=Runner)


class EngineModule(Protocol[RunnerT]):
    """The functions of an engine module."""

    def build_runner(self, config: ReplicaConfig, rank_place: RankPlace, progress: ProgressCounter) -> RunnerT:
        """Load this rank's share of the model, and run whatever takes longer the first time than
        later. All ranks of a replica call it at the same time.

        A runner whose steps may take seconds calls `progress.beat` several times in each of them.
        """
        ...

    def count_weight_bytes(self, runner: RunnerT) -> int:
        """Return the bytes of weights that this rank holds."""
        ...

    def build_engine(self, config: ReplicaConfig, runner: RunnerT, execute: Callable[[Any], Any]) -> Engine:
        """Build the engine on rank 0. `execute` runs a step on every rank and returns what rank 0's
        runner returns."""
        ...


def load_engine_module(name: str) -> EngineModule[Any]:
    """Import the engine that `ReplicaConfig.engine` names. The import may load torch."""
    if name == "model":
        from tirazh.actors import model_engine

        return model_engine
    if name == "echo":
        from tirazh.actors import echo

        return echo
    assert name.startswith(MODULE_PREFIX), f"{name!r} is neither in {ENGINES} nor a module"
    return cast("EngineModule[Any]", importlib.import_module(name.removeprefix(MODULE_PREFIX)))
