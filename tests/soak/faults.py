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
from tests.soak.fault import Fault, Heal
from tests.soak.job import LEASE_S, Job, Place
from tests.soak.proxy import Mood
from tests.soak.scarcity import hold_cpus, keep_busy
from tests.soak.second_command import overwrite_meanwhile, spend_budget, start_second_writer
from tests.soak.world import World


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: its `weight` among all faults, and the `places` of jobs that it applies to.

    `inject` returns a function that removes the cause, or None when there is no target yet.
    `ends_command`: the fault ends the command itself. `kills_command`: by SIGKILL. `kills_replica`:
    replicas of the job die. An outage `lasts` between so many and so many seconds. `early`: it is
    always, or never, injected within seconds of the start of the command. `is_last`: no other fault
    follows in its job. `more_parts`: the job is so much longer,
    because the fault takes a while.
    """

    name: str
    weight: int
    places: tuple[Place, ...]
    inject: Callable[[World, Job, Fault], Heal | None] = field(repr=False)
    ends_command: bool = False
    kills_command: bool = False
    kills_replica: bool = False
    is_outage: bool = False
    lasts: tuple[float, float] = (0.5, 5.0)
    early: bool | None = None
    is_last: bool = False
    more_parts: int = 0


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


_LONG = (LEASE_S + 5.0, LEASE_S + 12.0)
_CLUSTER: tuple[Place, ...] = ("disk", "ranks", "bucket")
_ANYWHERE: tuple[Place, ...] = (*_CLUSTER, "alone")
KINDS = {
    kind.name: kind
    for kind in (
        Kind("driver: kill -9", 24, _ANYWHERE, _signal_driver(signal.SIGKILL), ends_command=True, kills_command=True),
        Kind("driver: SIGTERM", 14, _ANYWHERE, _signal_driver(signal.SIGTERM), ends_command=True),
        Kind("driver: SIGINT", 12, _ANYWHERE, _signal_driver(signal.SIGINT), ends_command=True),
        Kind("replica: kill -9", 26, ("disk", "bucket"), _kill_replica, kills_replica=True),
        Kind("rank in a collective: kill -9", 24, ("ranks",), _kill_rank, kills_replica=True),
        Kind("rank: SIGSTOP", 10, ("disk", "ranks"), _stop(lambda world: world.cluster.ranks()), kills_replica=True),
        Kind("replica: SIGSTOP", 6, ("disk",), _stop(lambda world: world.cluster.replicas()), kills_replica=True),
        Kind("worker node: killed", 14, ("disk", "ranks"), _kill_node, is_outage=True, kills_replica=True),
        Kind("S3 server: killed", 12, ("bucket",), _kill_server, is_outage=True),
        Kind("S3 network: slow", 12, ("bucket",), _network("slow"), is_outage=True),
        Kind("S3 network: cut", 14, ("bucket",), _network("cut"), is_outage=True),
        Kind("S3 network: 503", 12, ("bucket",), _network("503"), is_outage=True),
        Kind("S3 network: SlowDown", 10, ("bucket",), _network("SlowDown"), is_outage=True),
        Kind("disk: full", 12, ("disk",), _fill_disk, is_outage=True),
        Kind(
            "second writer: clock 5 min ahead",
            3,
            ("disk", "bucket"),
            start_second_writer(300.0),
            ends_command=True,
            kills_command=True,
            more_parts=20,
        ),
        Kind(
            "second writer: clock 5 min behind",
            3,
            ("disk", "bucket"),
            start_second_writer(-300.0),
            ends_command=True,
            kills_command=True,
            more_parts=20,
        ),
        Kind("outage: longer than the lease", 3, ("bucket",), _network("down"), is_outage=True, lasts=_LONG),
        Kind(
            "outage: overwritten meanwhile",
            1,
            ("bucket",),
            overwrite_meanwhile,
            is_outage=True,
            kills_replica=True,
            lasts=(LEASE_S + 25.0, LEASE_S + 30.0),
            early=False,
            is_last=True,
        ),
        Kind("budget: failed, run again", 2, ("budget",), spend_budget, ends_command=True, early=True),
        Kind("compiler: 65 s a kernel", 1, ("compiler",), lambda world, job, fault: _nothing, early=True),
        Kind("starved: busy loops", 3, ("disk", "ranks", "bucket"), keep_busy, is_outage=True, lasts=(8.0, 20.0)),
        Kind("starved: CPUs held", 3, ("disk", "bucket"), hold_cpus, is_outage=True, lasts=(8.0, 20.0)),
    )
}


def sample_fault(kind: str, rng: random.Random) -> Fault:
    """Sample a fault of this kind.

    One in four is injected within seconds of the start of the command, unless its kind is always or never.
    """
    chosen, is_early = KINDS[kind].early, rng.random() < 0.25
    early = is_early if chosen is None else chosen
    return Fault(
        kind=kind,
        after_parts=None if early else rng.randrange(1 if chosen is False else 0, 4),
        delay_s=rng.uniform(0.2, 7.0) if early else rng.uniform(0.0, 0.8),
        for_s=rng.uniform(*KINDS[kind].lasts),
        target=rng.random(),
    )
