"""A real Ray cluster of two nodes on this machine, whose processes can be found and killed.

The head node has one CPU and runs the drivers; the worker node has three. Each node is a raylet
with its own worker processes, as on two machines. A token protects the cluster from other users of
the host.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAD_CPUS, WORKER_CPUS = 1, 3
# Ray's defaults are 3 s and 5 times. A lost node is detected sooner here, so that more faults fit
# into an hour.
_HEALTH = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}


@dataclass(frozen=True, slots=True)
class Worker:
    """A Ray worker process; its title names its task or actor."""

    pid: int
    title: str
    node: int

    @property
    def is_rank(self) -> bool:
        return self.title.startswith("ray::Rank")

    @property
    def is_replica(self) -> bool:
        return self.title.startswith("ray::MapWorker(")

    @property
    def is_ours(self) -> bool:
        return self.is_rank or self.is_replica or self.title.startswith(("ray::Metrics", "ray::ReadParts"))


def settings(folder: Path) -> dict[str, str]:
    """Return the environment of the cluster and its drivers.

    `folder` holds sockets, so its name must be short.
    """
    return {
        "RAY_TMPDIR": str(folder),  # otherwise every ray.init() on this machine would find this cluster
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # workers inherit the niceness of the run
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        **_HEALTH,
    }


class TwoNodes:
    """The cluster.

    `start` starts it; its environment variables must be set before `ray` is imported.
    """

    def __init__(self) -> None:
        self._cluster: Any = None
        self._worker: Any = None

    def start(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        self._add_node(num_cpus=HEAD_CPUS, include_dashboard=False, include_log_monitor=False, gcs_server_port=0)
        self.add_worker_node()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add_worker_node(self) -> None:
        self._worker = self._add_node(num_cpus=WORKER_CPUS)

    def _add_node(self, **settings: Any) -> Any:
        """Add a node, and restore the signal handlers that Ray replaces: its own ones end the process at once."""
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            return self._cluster.add_node(**settings)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def worker_node_ranks(self) -> list[Worker]:
        """Return the ranks on the worker node."""
        raylet = _raylet_pid(self._worker)
        return [worker for worker in self.ranks() if worker.node == raylet]

    def kill_worker_node(self) -> None:
        """SIGKILL to the worker node's raylet and all its processes at once."""
        raylet = _raylet_pid(self._worker)
        workers = [worker for worker in self.workers() if worker.node == raylet]
        for pid in (raylet, *(worker.pid for worker in workers)):
            kill(pid)
        self._cluster.remove_node(self._worker, allow_graceful=False)

    def workers(self) -> list[Worker]:
        """Return every worker process of the cluster, oldest first."""
        nodes = {_raylet_pid(node) for node in (self._cluster.head_node, *self._cluster.worker_nodes)}
        return [
            Worker(pid, title, parent)
            for pid, parent, title in running_processes()
            if parent in nodes and title.startswith("ray::")
        ]

    def ranks(self) -> list[Worker]:
        return [worker for worker in self.workers() if worker.is_rank]

    def replicas(self) -> list[Worker]:
        return [worker for worker in self.workers() if worker.is_replica]

    def all_pids(self) -> list[int]:
        nodes = {_raylet_pid(node) for node in (self._cluster.head_node, *self._cluster.worker_nodes)}
        return [*nodes, *(worker.pid for worker in self.workers())]

    def wait_until_free(self, timeout_s: float = 20.0) -> list[Worker]:
        """Wait until no process of a job is left. Returns those that are left after the timeout."""
        deadline = time.monotonic() + timeout_s
        while (left := [worker for worker in self.workers() if worker.is_ours]) and time.monotonic() < deadline:
            time.sleep(0.2)
        return left

    def stop(self) -> None:
        pids = self.all_pids()
        with contextlib.suppress(Exception):
            self._cluster.shutdown()
        for pid in pids:
            kill(pid)


def running_processes() -> list[tuple[int, int, str]]:
    """Return (pid, parent's pid, command line) of every process on this machine, oldest first, without zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                after_name = (entry / "stat").read_text().rpartition(") ")[2].split()
                title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if after_name[0] != "Z":
                    found.append((int(after_name[19]), int(entry.name), int(after_name[1]), title))
    return [process[1:] for process in sorted(found)]


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """Send a signal. Returns False when the process does not exist."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def is_there(pid: int) -> bool:
    """Whether a process of this id exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def _raylet_pid(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)
