"""What a run takes of a Ray session that other runs may use too: the CPUs of its ranks and steps.

In a cluster, the steps that read and write reserve no CPU. So they never wait for one that another
job holds, while a replica holds a GPU and has nothing to do; Ray limits them by their number.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from uuid import uuid4

import ray

from tirazh.actors.cores import usable_cores
from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.placement import release_leftovers
from tirazh.pipeline.execution.group_watch import telling_of_waits
from tirazh.pipeline.execution.ray_session import is_own_session
from tirazh.pipeline.execution.shared_replicas import shared_replicas

Tell = Callable[[str], None]
# Concurrent tasks of a step for each replica, where tasks reserve no CPU.
_TASKS_PER_REPLICA = 4
# Where Ray on this machine was started for another run of this process, the CPUs say nothing about
# the machine, and all further runs share one.
_CPUS_PER_FURTHER_RANK = 0.01


@dataclass(frozen=True, slots=True)
class StepCpus:
    """The CPUs that a task of a step reserves, and how many tasks of a step run at once."""

    num_cpus: float = 0
    concurrency: int = _TASKS_PER_REPLICA


@dataclass(frozen=True, slots=True)
class RunResources:
    """What a run may use. `replica` is the config of its replicas, with the run's id."""

    replica: ReplicaConfig
    steps: StepCpus


_lock = threading.Lock()
_num_runs = 0


@contextmanager
def run_resources(
    replica: ReplicaConfig, *, replicas: tuple[int, int], tell: Tell | None = None
) -> Iterator[RunResources]:
    """Inside the block, `tell` hears what the run waits for.

    `replicas` is their minimum and maximum number. At the end of the block everything that the run
    has reserved is freed; Ray would keep it until the driver ends. Other runs are left alone. A step of a
    job of several steps leaves its replicas to the next one, unless their number varies: replicas that the
    run does not need any more must be freed for others.
    """
    shared = shared_replicas() if replicas[0] == replicas[1] else None
    run_id = uuid4().hex[:16] if shared is None else shared.run_id
    with _counted() as is_only_run:
        replica = replace(replica, run_id=run_id, rank_pool="" if shared is None else shared.name)
        steps = StepCpus(concurrency=_TASKS_PER_REPLICA * replicas[1])
        if is_own_session() and is_only_run:
            steps = own_session_steps(usable_cores())
        elif is_own_session():
            replica = replace(replica, cpus_per_rank=_CPUS_PER_FURTHER_RANK)
        is_complete = False
        try:
            with telling_of_waits(run_id, tell):
                yield RunResources(replica, steps)
            is_complete = True
        finally:
            if shared is not None:
                shared.end_step(keep=is_complete)
            elif ray.is_initialized():
                release_leftovers(run_id)


def own_session_steps(cores: int) -> StepCpus:
    """The CPUs of steps in a session that tirazh has started, which has one CPU more than `cores` for them.

    At most `cores` tasks run at once, of all steps together: each is a process with libraries of its own.
    About half a CPU always remains for the ranks of a further run.
    """
    return StepCpus(num_cpus=round(1 + 0.5 / cores, 4), concurrency=cores)


@contextmanager
def _counted() -> Iterator[bool]:
    """Count the runs of this process. Yields whether this one is the only one."""
    global _num_runs
    with _lock:
        _num_runs += 1
        is_only = _num_runs == 1
    try:
        yield is_only
    finally:
        with _lock:
            _num_runs -= 1
