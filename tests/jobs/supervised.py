"""A cluster of two nodes whose processes are started again when they end, as KubeRay or systemd would do it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil

from tests.jobs.clusters import TOKEN, free_ports

_START = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address=127.0.0.1")
_AGAIN_S = 2.0


@dataclass(slots=True)
class Supervised:
    """A process that is started again when it ends. `starts` counts how often it was started."""

    command: tuple[str, ...]
    environment: dict[str, str]
    starts: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _is_over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Start it again and again, until `close`."""
        while not self._is_over.is_set():
            self.starts += 1
            self._process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._process.wait()
            self.kill()
            self._is_over.wait(_AGAIN_S)

    def kill(self) -> None:
        """Send SIGKILL to the process and to all that it has started, as when its machine loses power."""
        process = self._process
        if process is None:
            return
        with suppress(psutil.NoSuchProcess):
            for each in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, 9)

    def close(self) -> None:
        """End it for good."""
        self._is_over.set()
        self.kill()


@dataclass(frozen=True, slots=True)
class SupervisedCluster:
    """The address of the job server, the environment of clients, and the two nodes."""

    address: str
    environment: dict[str, str]
    head: Supervised
    worker: Supervised


@contextmanager
def supervised_cluster(*, head_cpus: int, worker_cpus: int) -> Iterator[SupervisedCluster]:
    """Start the two nodes; the cluster requires TOKEN. They are killed after the block."""
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    environment["PATH"] = f"{os.path.dirname(sys.executable)}{os.pathsep}{environment['PATH']}"
    environment.pop("RAY_ADDRESS", None)
    gcs, dashboard, client, *agents = free_ports(5)
    with tempfile.TemporaryDirectory(prefix="tz-", ignore_cleanup_errors=True) as directory:
        head = (
            *(*_START, "--head", f"--num-cpus={head_cpus}", f"--port={gcs}", f"--dashboard-port={dashboard}"),
            *(f"--dashboard-agent-listen-port={agents[0]}", f"--ray-client-server-port={client}"),
            *("--disable-usage-stats", f"--temp-dir={directory}"),
        )
        node = (f"--address=127.0.0.1:{gcs}", f"--num-cpus={worker_cpus}", f"--dashboard-agent-listen-port={agents[1]}")
        nodes = [Supervised(head, environment), Supervised((*_START, *node), environment)]
        threads = [threading.Thread(target=each.run) for each in nodes]
        for thread in threads:
            thread.start()
        try:
            yield SupervisedCluster(f"http://127.0.0.1:{dashboard}", environment, *nodes)
        finally:
            for each in nodes:
                each.close()
            for thread in threads:
                thread.join(60)
