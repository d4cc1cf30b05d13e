"""The methods of a rank as another process calls them: types for Ray's untyped actor handles."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol, TypeVar

from tirazh.actors.messages import RankFailure, RankLocation, RankReady, ReplicaHeartbeat
from tirazh.model.requests import EngineCounters, Result

ResultT_co = TypeVar("ResultT_co", covariant=True)


class RemoteMethod(Protocol[ResultT_co]):
    """A method of a Ray actor. `remote` returns a reference at once, for `await`, `ray.get` and
    `ray.wait`."""

    def remote(self, *arguments: object) -> Awaitable[ResultT_co]: ...


class RankHandle(Protocol):
    """A handle of a `tirazh.actors.rank.Rank`."""

    locate: RemoteMethod[RankLocation]
    open_port: RemoteMethod[int]
    start: RemoteMethod[RankReady | RankFailure]
    phase: RemoteMethod[str]
    watch: RemoteMethod[RankFailure]
    run: RemoteMethod[list[Result]]
    add_job: RemoteMethod[int | RankFailure]
    heartbeat: RemoteMethod[ReplicaHeartbeat]
    counters: RemoteMethod[EngineCounters]
