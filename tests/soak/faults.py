"""The kinds of faults: how each one is injected, and how its cause is removed again."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.soak.cluster import Worker, kill
from tests.soak.job import Job, Place
from tests.soak.proxy import Mood
from tests.soak.world import World

Heal = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a plan.

    It is injected `delay_s` after `after_parts` further parts were written (`None`: after the start
    of the command). An outage lasts `for_s` seconds. `target` in [0, 1) selects one of the possible
    processes.
    """

    kind: str
    after_parts: int | None
    delay_s: float
    for_s: float
    target: float


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: its `weight` among all faults, and the `places` of jobs that it applies to.

    `inject` returns a function that removes the cause, or None when there is no target yet.
    `ends_command`: the fault ends the command itself.
    """

    name: str
    weight: int
    places: tuple[Place, ...]
    inject: Callable[[World, Job, Fault], Heal | None] = field(repr=False)
    ends_command: bool = False
    is_outage: bool = False


def _nothing() -> None:
    pass


def _signal_driver(number: int) -> Callable[[World, Job, Fault], Heal | None]:
    def inject(world: World, job: Job, fault: Fault) -> Heal | None:
        return _nothing if not job.is_over() and kill(job.life.process.pid, number) else None

    return inject


def _kill_replica(world: World, job: Job, fault: Fault) -> Heal | None:
    """SIGKILL to the process that owns a replica, or to one of its ranks."""
    return _hit(fault, [*world.cluster.replicas(), *world.cluster.ranks()], signal.SIGKILL)


def _kill_rank(world: World, job: Job, fault: Fault) -> Heal | None:
    """SIGKILL to one of two ranks while the other waits for it in a collective.

    The target is stopped first, so that the other rank is certain to wait for data that it has not
    sent.
    """
    ranks = world.cluster.ranks()
    if len(ranks) < 2:
        return None
    target = _pick(fault, ranks)
    if not kill(target.pid, signal.SIGSTOP):
        return None
    time.sleep(0.05 + 0.2 * fault.target)
    kill(target.pid, signal.SIGKILL)
    return _nothing


def _stop(find: Callable[[World], list[Worker]]) -> Callable[[World, Job, Fault], Heal | None]:
    """SIGSTOP without SIGCONT: the process exists, keeps its connections open and does nothing."""

    def inject(world: World, job: Job, fault: Fault) -> Heal | None:
        targets = find(world)
        heal = _hit(fault, targets, signal.SIGSTOP)
        if heal is not None:
            job.stopped.append(_pick(fault, targets).pid)
        return heal

    return inject


def _kill_node(world: World, job: Job, fault: Fault) -> Heal | None:
    """Kill the worker node with all its processes; a new node joins when the outage is over."""
    if not world.cluster.worker_node_ranks():
        return None
    world.cluster.kill_worker_node()
    return world.cluster.add_worker_node


def _kill_server(world: World, job: Job, fault: Fault) -> Heal | None:
    assert world.server is not None
    world.server.kill()
    return world.server.start


def _network(mood: Mood) -> Callable[[World, Job, Fault], Heal | None]:
    def inject(world: World, job: Job, fault: Fault) -> Heal | None:
        proxy = world.proxy
        assert proxy is not None
        proxy.hits, proxy.mood = 0, mood

        def heal() -> None:
            deadline = time.monotonic() + 20.0
            while not proxy.hits and not job.is_over() and time.monotonic() < deadline:
                time.sleep(0.05)  # an outage that affects no request tests nothing
            proxy.mood = "well"

        return heal

    return inject


def _fill_disk(world: World, job: Job, fault: Fault) -> Heal | None:
    ballast = world.disk / ".ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    return lambda: os.unlink(ballast)


def _hit(fault: Fault, targets: list[Worker], number: int) -> Heal | None:
    return _nothing if targets and kill(_pick(fault, targets).pid, number) else None


def _pick(fault: Fault, targets: list[Worker]) -> Worker:
    return targets[int(fault.target * len(targets))]


_CLUSTER: tuple[Place, ...] = ("disk", "ranks", "bucket")
_ANYWHERE: tuple[Place, ...] = (*_CLUSTER, "alone")
KINDS = {
    kind.name: kind
    for kind in (
        Kind("driver: kill -9", 24, _ANYWHERE, _signal_driver(signal.SIGKILL), ends_command=True),
        Kind("driver: SIGTERM", 14, _ANYWHERE, _signal_driver(signal.SIGTERM), ends_command=True),
        Kind("driver: SIGINT", 12, _ANYWHERE, _signal_driver(signal.SIGINT), ends_command=True),
        Kind("replica: kill -9", 26, ("disk", "bucket"), _kill_replica),
        Kind("rank in a collective: kill -9", 24, ("ranks",), _kill_rank),
        Kind("rank: SIGSTOP", 10, ("disk", "ranks"), _stop(lambda world: world.cluster.ranks())),
        Kind("replica: SIGSTOP", 6, ("disk",), _stop(lambda world: world.cluster.replicas())),
        Kind("worker node: killed", 14, ("disk", "ranks"), _kill_node, is_outage=True),
        Kind("S3 server: killed", 12, ("bucket",), _kill_server, is_outage=True),
        Kind("S3 network: slow", 12, ("bucket",), _network("slow"), is_outage=True),
        Kind("S3 network: cut", 14, ("bucket",), _network("cut"), is_outage=True),
        Kind("S3 network: 503", 12, ("bucket",), _network("503"), is_outage=True),
        Kind("S3 network: SlowDown", 10, ("bucket",), _network("SlowDown"), is_outage=True),
        Kind("disk: full", 12, ("disk",), _fill_disk, is_outage=True),
    )
}


def sample_fault(kind: str, rng: random.Random) -> Fault:
    """Sample a fault of this kind.

    One in four is injected within seconds of the start of the command.
    """
    early = rng.random() < 0.25
    return Fault(
        kind=kind,
        after_parts=None if early else rng.randrange(0, 4),
        delay_s=rng.uniform(0.2, 7.0) if early else rng.uniform(0.0, 0.8),
        for_s=rng.uniform(0.5, 5.0),
        target=rng.random(),
    )
