"""A typed client of the metrics actor.

Calls that wait have a timeout, and none fails if the actor is missing.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle, ActorMethod
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tirazh.errors import JobError, TirazhError
from tirazh.model.requests import EngineCounters
from tirazh.pipeline.execution.metrics import Metrics, MetricsSnapshot

logger = logging.getLogger(__name__)

_OWNER_TIMEOUT_S = 10.0
_DRIVER_TIMEOUT_S = 5.0
_START_TIMEOUT_S = 120.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MetricsClient:
    """Calls the `Metrics` actor. It can be sent to other processes.

    Methods that record something return at once, unless they say that they wait. Methods that read
    something return a default if the actor does not answer in time.
    """

    actor: ActorHandle

    def wait_until_ready(self, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Wait until the actor has started. Raises JobError if the driver's machine cannot run it."""
        try:
            ray.get(self.actor.snapshot.remote(), timeout=timeout_s)
        except GetTimeoutError:
            reason = f"no answer within {timeout_s:g} s"
        except RayError as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        else:
            return
        raise JobError(f"the process that counts the rows could not start on the driver's machine: {reason}")

    def register(self, owner: str) -> None:
        """Register an owner that starts. Waits until the actor has received it."""
        _wait(self.actor.register, owner, default=None, timeout_s=_OWNER_TIMEOUT_S)

    def heartbeat(self, owner: str, actor: ActorHandle, replica: str | None, waiting_for: str = "") -> None:
        """Report that an owner is alive. `actor` is its handle; `replica`, if it has one, is serving. Before that,
        `waiting_for` is what its start waits for."""
        self.actor.heartbeat.remote(owner, ray.cloudpickle.dumps(actor), replica, waiting_for)

    def replica_started(self, owner: str, replica: str, versions: dict[str, str]) -> None:
        """Report a replica that serves, and the `versions` of the libraries it runs on."""
        self.actor.replica_started.remote(owner, replica, versions)

    def start_failed(self, error: TirazhError) -> int:
        """Report why a replica could not start.

        Waits, and returns the number of other replicas that serve.
        """
        return _wait(self.actor.start_failed, error, default=0, timeout_s=_OWNER_TIMEOUT_S)

    def replica_died(self, owner: str, reason: str) -> None:
        """Report that an owner's replica died. Waits until the actor has received it."""
        _wait(self.actor.replica_died, owner, reason, default=None, timeout_s=_OWNER_TIMEOUT_S)

    def set_counters(self, replica: str, counters: EngineCounters) -> None:
        """Report a replica's totals so far."""
        self.actor.set_counters.remote(replica, counters)

    async def part_started(self, owner: str, part: int) -> bool:
        """Report that an owner works on a part. Waits, and returns False if it must not start it."""
        return await _wait_async(self.actor.part_started, owner, part, default=True)

    def drain(self) -> int | None:
        """Let no more parts start. Returns the number of parts that are in work."""
        return _wait(self.actor.drain, default=None)

    def part_finished(self, owner: str, part: int) -> None:
        """Report that an owner has the results of a part."""
        self.actor.part_finished.remote(owner, part)

    async def deaths_of(self, part: int) -> int:
        """The number of replicas that died while they worked on `part`."""
        return await _wait_async(self.actor.deaths_of, part, default=0)

    def take_silent_owners(self, timeout_s: float, ceiling_s: float = 0.0) -> list[ActorHandle]:
        """Handles of the owners without a heartbeat for `timeout_s`, or up to `ceiling_s` where heartbeats were
        late before, each once until its next heartbeat."""
        silent: list[bytes] = _wait(self.actor.take_silent_owners, timeout_s, ceiling_s, default=[])
        return [ray.cloudpickle.loads(actor) for actor in silent]

    def snapshot(self) -> MetricsSnapshot | None:
        """The totals of the run."""
        return _wait(self.actor.snapshot, default=None)

    def errors(self) -> list[TirazhError]:
        """Why replicas could not start, in order."""
        return _wait(self.actor.errors, default=[])

    def death_reasons(self) -> dict[int, str]:
        """Part → why the last replica died that worked on it."""
        return _wait(self.actor.death_reasons, default={})

    def versions(self) -> dict[str, str]:
        """Versions of the libraries that the replicas run on."""
        return _wait(self.actor.versions, default={})


def start_metrics() -> MetricsClient:
    """Start the actor on the driver's node, and only there: it lives as long as the driver.

    Returns at once. `wait_until_ready` tells whether it has started.
    """
    # With soft=True, Ray 2.60 puts an actor that reserves nothing on any node.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return MetricsClient(ray.remote(Metrics).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote())


def _wait(method: ActorMethod, *arguments: Any, default: T, timeout_s: float = _DRIVER_TIMEOUT_S) -> T:
    try:
        answer: T = ray.get(method.remote(*arguments), timeout=timeout_s)
    except (RayError, GetTimeoutError):
        logger.debug("the metrics actor does not answer")
        return default
    return answer


async def _wait_async(method: ActorMethod, *arguments: Any, default: T) -> T:
    try:
        answer: T = await asyncio.wait_for(method.remote(*arguments), _OWNER_TIMEOUT_S)
    except (RayError, TimeoutError):
        logger.debug("the metrics actor does not answer")
        return default
    return answer
