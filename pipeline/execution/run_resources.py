"""The CPUs of a run: some for its steps, which read and write, besides those of its replicas.

The steps' CPUs are reserved before any replica starts, or else the steps reserve none. So no step
waits for a CPU that another job holds, while a replica holds a GPU and has nothing to do.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from uuid import uuid4

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tirazh.actors.cores import usable_cores
from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.placement import group_prefix, release_leftovers
from tirazh.pipeline.execution.group_watch import telling_of_waits
from tirazh.pipeline.execution.ray_session import is_own_session

logger = logging.getLogger(__name__)

Tell = Callable[[str], None]
STEPS = "steps"
# Concurrent tasks of a step that reserves no CPU, so that Ray does not limit them.
_MAX_UNCOUNTED_TASKS = 4
# In a cluster that others use too, one CPU for each replica is reserved, and this share of it for
# a task: idle CPUs are kept from nobody's work for the whole run, and short tasks may run at once.
_TASK_CPUS = 0.25
# Ray learns a moment later that another run has freed its resources.
_SETTLE_S = 5.0
_POLL_S = 0.25
_RESERVE_TIMEOUT_S = 10.0
# Where Ray on this machine was started for another run of this process, the CPUs say nothing about
# the machine, and all further runs share one.
_CPUS_PER_FURTHER_RANK = 0.01


@dataclass(frozen=True, slots=True)
class StepCpus:
    """The CPUs of the steps: their tasks reserve `num_cpus` each in `group`; None: they reserve nothing.

    At most `concurrency` tasks of a step run at once.
    """

    group: PlacementGroup | None = None
    num_cpus: float = 0
    concurrency: int = _MAX_UNCOUNTED_TASKS

    @property
    def strategy(self) -> PlacementGroupSchedulingStrategy | None:
        """Where the tasks run; None leaves it to Ray Data."""
        return None if self.group is None else PlacementGroupSchedulingStrategy(self.group)


@dataclass(frozen=True, slots=True)
class RunResources:
    """What a run may use. `replica` is the config of its replicas, with the run's id."""

    replica: ReplicaConfig
    steps: StepCpus


_lock = threading.Lock()
_num_runs = 0


@contextmanager
def run_resources(
    replica: ReplicaConfig, replicas: tuple[int, int], *, tell: Tell | None = None
) -> Iterator[RunResources]:
    """Inside the block, the run has CPUs for its steps; `tell` hears what the run waits for.

    `replicas` are their minimum and maximum number. At the end of the block everything that the run
    has reserved is freed; Ray would keep it until the driver ends. Other runs are left alone.
    """
    run_id = uuid4().hex[:16]
    with _counted() as is_only_run:
        replica = replace(replica, run_id=run_id)
        try:
            if is_own_session() and not is_only_run:
                resources = RunResources(replace(replica, cpus_per_rank=_CPUS_PER_FURTHER_RANK), StepCpus())
            else:
                resources = RunResources(replica, _reserve_steps(replica, replicas, tell))
            with telling_of_waits(run_id, tell):
                yield resources
        finally:
            if ray.is_initialized():
                release_leftovers(run_id)


def _reserve_steps(replica: ReplicaConfig, replicas: tuple[int, int], tell: Tell | None) -> StepCpus:
    """Reserve the CPUs that are free besides those of the replicas, or none if there are too few."""
    least, most = (number * replica.tensor_parallel * replica.cpus_per_rank for number in replicas)
    is_own = is_own_session()
    spare = 1 if is_own else 0
    total = ray.cluster_resources().get("CPU", 0)
    if total - least - spare < 1:
        return StepCpus()
    free = _wait_for_free(least + spare + 1)
    if free - least - spare >= 1:
        limit, task_cpus = (usable_cores(), 1.0) if is_own else (replicas[1], _TASK_CPUS)
        number = max(1, min(int(free - most - spare), limit))
        group = placement_group([{"CPU": 1}] * number, strategy="SPREAD", name=f"{group_prefix(replica.run_id)}{STEPS}")
        if group.wait(timeout_seconds=_RESERVE_TIMEOUT_S):
            return StepCpus(group, task_cpus, int(number / task_cpus))
        remove_placement_group(group)
    sentence = f"{free:g} of {total:g} CPUs are free: the steps that read and write run without CPUs of their own"
    logger.warning(sentence)
    if tell is not None:
        tell(sentence)
    return StepCpus()


def _wait_for_free(cpus: float) -> float:
    """Return the free CPUs of the cluster, after a few seconds if they are fewer than `cpus`."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        free = float(ray.available_resources().get("CPU", 0))
        if free >= cpus or time.monotonic() > deadline:
            return free
        time.sleep(_POLL_S)


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
