"""Faults that take processor time: busy loops on this machine, and an actor that holds the cluster's CPUs.

`python -m tests.soak.scarcity ADDRESS` holds them until it is killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.conftest import REPOSITORY
from tests.soak.cluster import kill
from tests.soak.fault import Fault, Heal
from tests.soak.job import Job
from tests.soak.world import World

_LOOPS_A_CPU = 4
_HOLDING = "holding"
_HOLDER_START_S = 60.0


def keep_busy(world: World, job: Job, fault: Fault) -> Heal | None:
    """Run several busy loops on every core of this machine."""
    if job.is_over():
        return None
    count = _LOOPS_A_CPU * (os.cpu_count() or 1)
    loops = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    return lambda: _end(loops)


def hold_cpus(world: World, job: Job, fault: Fault) -> Heal | None:
    """Hold every CPU of the cluster that is free or becomes free."""
    if job.is_over():
        return None
    command = [sys.executable, "-m", "tests.soak.scarcity", world.cluster.address]
    holder = subprocess.Popen(
        command, cwd=REPOSITORY, env=world.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert holder.stdout is not None
    deadline = time.monotonic() + _HOLDER_START_S
    while holder.stdout.readline().strip() != _HOLDING:
        if holder.poll() is not None or time.monotonic() > deadline:
            job.flaws.append("the CPUs of the cluster could not be held")
            break
    return lambda: _end([holder])


def _end(processes: list[subprocess.Popen[bytes]] | list[subprocess.Popen[str]]) -> None:
    for process in processes:
        kill(process.pid)
        process.wait()


def main(address: str) -> None:
    """Ask for as many CPUs as the cluster has, so that each is held from the moment when it is free."""
    import ray

    @ray.remote(num_cpus=1)
    class Holder:
        def hold(self) -> None:
            time.sleep(3600)

    ray.init(address=address, log_to_driver=False)
    holders = [Holder.remote() for _ in range(int(ray.cluster_resources()["CPU"]))]
    waiting = [holder.hold.remote() for holder in holders]
    print(_HOLDING, flush=True)
    ray.get(waiting)


if __name__ == "__main__":
    main(sys.argv[1])
