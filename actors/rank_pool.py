"""The rank pool: an actor of the driver that owns the ranks of replicas, so that they outlive the process that
uses them.

The steps of one job are jobs of Ray Data, each with actors of its own. A rank belongs to the process that made it and
ends with it, so the ranks would load the model again for every step. The pool makes them instead. A replica takes the
ranks of an earlier step if they hold the same model, and else has new ones made.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, remove_placement_group

from tirazh.actors import placement
from tirazh.actors.messages import RankLocation, RankReady, ReplicaConfig
from tirazh.actors.rank import make_rank
from tirazh.actors.rank_handle import RankHandle
from tirazh.model.requests import EngineJob

logger = logging.getLogger(__name__)

_TIMEOUT_S = 60.0
_HEARTBEAT_S = 10.0


@dataclass(kw_only=True, slots=True)
class PooledRanks:
    """The ranks of one replica, in rank order. `owner` is the actor that uses them now, None for unused ranks.

    `locations` and `ready` are empty until the ranks serve.
    """

    id: int
    config: ReplicaConfig
    owner: str | None
    group: PlacementGroup
    ranks: list[RankHandle]
    locations: list[RankLocation]
    ready: list[RankReady]


class RankPool:
    """The actor class."""

    def __init__(self) -> None:
        self._all: dict[int, PooledRanks] = {}
        self._count = 0

    def take(self, owner: str, config: ReplicaConfig) -> PooledRanks | None:
        """Give unused ranks to `owner` that serve such a replica; None if there are none.

        Ranks that the owner has had are killed: it was restarted, and they may still work for its former self. So are
        unused ranks of another kind, whose resources the owner may need.
        """
        for each in [each for each in self._all.values() if each.owner == owner]:
            self.drop(each.id)
        for each in [each for each in self._all.values() if each.owner is None]:
            if each.config == _kind(config):
                each.owner = owner
                return each
            self.drop(each.id)
        return None

    def reserve(self, owner: str, config: ReplicaConfig) -> tuple[int, PlacementGroup]:
        """Request the resources of new ranks for `owner`; return their id and their placement group at once."""
        self._count += 1
        group = placement.reserve(config)
        self._all[self._count] = PooledRanks(
            id=self._count, config=_kind(config), owner=owner, group=group, ranks=[], locations=[], ready=[]
        )
        return self._count, group

    def make(self, id: int, config: ReplicaConfig) -> list[RankHandle]:
        """Make the ranks of a reserved placement group."""
        pooled = self._all[id]
        pooled.ranks = [make_rank(config, rank, pooled.group) for rank in range(config.tensor_parallel)]
        return pooled.ranks

    def started(self, id: int, locations: list[RankLocation], ready: list[RankReady]) -> None:
        """Record that ranks serve: from now on another owner may take them."""
        if id in self._all:
            self._all[id].locations, self._all[id].ready = locations, ready

    def drop(self, id: int) -> None:
        """Kill ranks and free their resources."""
        pooled = self._all.pop(id, None)
        if pooled is None:
            return
        for rank in pooled.ranks:
            with suppress(RayError, ValueError):
                ray.kill(cast("ActorHandle[Any]", rank), no_restart=True)
        remove_placement_group(pooled.group)

    def end_step(self, *, keep: bool) -> int:
        """Take all ranks back from their owners, who have ended; return how many replicas are kept.

        With `keep` those are kept that serve and have no work; the others are killed.
        """
        for each in list(self._all.values()):
            if keep and each.ready and _is_idle(each.ranks[0]):
                each.owner = None
            else:
                self.drop(each.id)
        return len(self._all)


@dataclass(frozen=True, slots=True)
class RankPoolClient:
    """Calls the pool. A pool that does not answer is as good as none: nothing of this raises."""

    actor: ActorHandle

    @classmethod
    def find(cls, name: str) -> RankPoolClient | None:
        """Return the client of the pool `name`; None without a name, or where there is no such pool any more."""
        if not name:
            return None
        try:
            return cls(ray.get_actor(name))
        except ValueError:
            return None

    def take(self, owner: str, config: ReplicaConfig) -> PooledRanks | None:
        """Take unused ranks, or None."""
        found = self._ask("take", owner, config)
        return found if isinstance(found, PooledRanks) else None

    def reserve(self, owner: str, config: ReplicaConfig) -> tuple[int, PlacementGroup] | None:
        """Request resources for new ranks; None if the pool does not answer."""
        return cast("tuple[int, PlacementGroup] | None", self._ask("reserve", owner, config))

    def make(self, id: int, config: ReplicaConfig) -> list[RankHandle] | None:
        """Have new ranks made; None if the pool does not answer."""
        return cast("list[RankHandle] | None", self._ask("make", id, config))

    def started(self, id: int, locations: list[RankLocation], ready: list[RankReady]) -> None:
        """Report that ranks serve. Returns at once."""
        self.actor.started.remote(id, locations, ready)

    def drop(self, id: int) -> None:
        """Have ranks killed. Returns at once."""
        self.actor.drop.remote(id)

    def end_step(self, *, keep: bool) -> bool:
        """Take back all ranks at the end of a step. Returns whether the pool answered."""
        return self._ask("end_step", keep=keep) is not None

    def _ask(self, method: str, *arguments: object, **named: object) -> object:
        try:
            return ray.get(getattr(self.actor, method).remote(*arguments, **named), timeout=_TIMEOUT_S)
        except RayError:
            logger.warning("the process that keeps the replicas between steps does not answer", exc_info=True)
            return None


def _kind(config: ReplicaConfig) -> ReplicaConfig:
    """The config without what may differ between two owners of the same ranks."""
    return replace(config, jobs=(EngineJob(),))


def _is_idle(rank: RankHandle) -> bool:
    try:
        return not ray.get(cast("Any", rank.heartbeat.remote()), timeout=_HEARTBEAT_S).is_busy
    except RayError:
        return False
