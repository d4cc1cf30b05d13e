"""Real Ray clusters with a job server: a head node and, if asked for, more nodes on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY

TOKEN = "a-token-for-this-test-alone-" * 2
_START = ("-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address=127.0.0.1")


@dataclass(frozen=True)
class Head:
    """A running head node: the address of its job server, its files, and the environment that clients need."""

    address: str
    gcs_address: str
    directory: Path
    environment: dict[str, str]
    ports: tuple[int, ...]

    def tirazh(
        self, *arguments: str, cwd: Path = REPOSITORY, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tirazh", *arguments, "--address", self.address],
            cwd=cwd,
            env=self.environment | (env or {}),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def follower(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command that runs until its job ends."""
        return subprocess.Popen(
            [sys.executable, "-m", "tirazh", *arguments, "--address", self.address],
            cwd=REPOSITORY,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@contextmanager
def ray_head(*, num_cpus: int, ports: tuple[int, ...] | None = None, python: Path | None = None) -> Iterator[Head]:
    """Start a head node that requires TOKEN, and stop it after the block.

    `ports` are those of an earlier head that has ended; without them free ones are chosen. `python` is that of the
    cluster, if it is not this one.
    """
    python = python or Path(sys.executable)
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    environment.pop("RAY_ADDRESS", None)
    gcs, dashboard, agent, client = ports = ports or tuple(free_ports(4))
    # The names of the sockets that Ray creates in its directory have a maximum length, so the
    # directory's is short.
    with tempfile.TemporaryDirectory(prefix="tz-", ignore_cleanup_errors=True) as directory:
        command = (
            *(
                str(python),
                *_START,
                "--head",
                f"--num-cpus={num_cpus}",
                f"--port={gcs}",
                f"--dashboard-port={dashboard}",
            ),
            *(f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"),
            *("--disable-usage-stats", f"--temp-dir={directory}"),
        )
        head = Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", Path(directory), environment, ports)
        # Ray gives up after 30 seconds, which a busy machine may exceed.
        with ExitStack() as stack:
            started = (
                _is_ready(head, stack.enter_context(_process(command, _first(python, environment)))) for _ in range(4)
            )
            assert any(started), "the head did not start"
            yield head


def _is_ready(head: Head, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the head's node has joined and the job server answers. Returns False if the process ends before.

    The job server may answer before: `ray start` ends everything if the node has not joined after 30 seconds.
    """
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError, ValueError, KeyError):
            if living_nodes(head) and "there is no job" in head.tirazh("status", "nonesuch").stderr:
                return process.poll() is None
        time.sleep(1)
    return False


@contextmanager
def another_node(
    head: Head, *, num_cpus: int, python: Path | None = None, own_disk: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Add a node to the head's cluster for the time of the block, and wait until it has joined.

    `python` is that of the node, if it is not this one. For the node, `own_disk` is another, empty directory. The
    process has a session of its own.
    """
    python = python or Path(sys.executable)
    (agent,) = free_ports(1)
    options = (f"--address={head.gcs_address}", f"--num-cpus={num_cpus}", f"--dashboard-agent-listen-port={agent}")
    command = (str(python), *_START, *options)
    if own_disk is not None:
        # A mount namespace, as the disk of another machine: its mounts are invisible outside.
        mount = f'mount -t tmpfs tmpfs "{own_disk}" && exec "$@"'
        command = ("unshare", "--mount", "sh", "-c", mount, "sh", *command)
    before = living_nodes(head)
    with _process(command, _first(python, head.environment)) as process:
        deadline = time.monotonic() + 240
        while not living_nodes(head) - before:
            assert process.poll() is None, "the node did not start"
            assert time.monotonic() < deadline, "the node did not join"
            time.sleep(1)
        yield process


def living_nodes(head: Head) -> set[str]:
    """The ids of the living nodes of the head's cluster, as its dashboard shows them."""
    request = urllib.request.Request(f"{head.address}/nodes?view=summary", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        nodes = json.load(answer)["data"]["summary"]
    return {node["raylet"]["nodeId"] for node in nodes if node["raylet"].get("state") == "ALIVE"}


def free_ports(count: int) -> list[int]:
    """Return ports that are free: Ray's defaults may be in use by another Ray on this machine."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _first(python: Path, environment: dict[str, str]) -> dict[str, str]:
    """An environment in which `python` is this one."""
    return environment | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}


@contextmanager
def _process(command: tuple[str, ...], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)
