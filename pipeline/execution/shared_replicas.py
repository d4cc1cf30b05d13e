"""Replicas that the steps of one job share: a model is loaded once, and its ranks serve one step after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tirazh.actors.placement import release_leftovers
from tirazh.actors.rank_pool import RankPool, RankPoolClient


@dataclass(frozen=True, slots=True)
class SharedReplicas:
    """A pool of ranks. `name` is that of its actor, `run_id` the one under which all resources are reserved."""

    name: str
    run_id: str

    def end_step(self, *, keep: bool) -> None:
        """Take back the ranks of a step that has ended. With `keep` the next step may use them."""
        if not ray.is_initialized():
            return
        pool = RankPoolClient.find(self.name)
        if pool is None or not pool.end_step(keep=keep):
            release_leftovers(self.run_id)


_current: ContextVar[SharedReplicas | None] = ContextVar("shared replicas", default=None)


def shared_replicas() -> SharedReplicas | None:
    """The pool of the job of several steps that runs in this context."""
    return _current.get()


@contextmanager
def sharing_replicas() -> Iterator[None]:
    """Inside the block, jobs with equal replicas share them. Ray is connected. At the end all are freed."""
    run_id = uuid4().hex[:16]
    shared = SharedReplicas(f"tirazh-replicas-{run_id}", run_id)
    # Beside the driver, with which it ends in any case.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    pool: Any = ray.remote(RankPool).options(name=shared.name, num_cpus=0, scheduling_strategy=here).remote()
    token = _current.set(shared)
    try:
        yield
    finally:
        _current.reset(token)
        if ray.is_initialized():
            release_leftovers(run_id)
            with suppress(RayError, ValueError):
                ray.kill(pool, no_restart=True)
