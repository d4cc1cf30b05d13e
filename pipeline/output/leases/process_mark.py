"""Identifies a process, so that another process on the same machine can check whether it is still alive."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessMark:
    """The identity of a process.

    `machine` distinguishes boots and containers on the same host; it is empty where the system does not tell.
    `started` distinguishes processes that had the same process id one after the other.
    """

    host: str
    machine: str
    pid: int
    started: str

    @property
    def is_here(self) -> bool:
        """Whether the process belongs to this host, boot and container, so that this process can see it."""
        return bool(self.machine) and (self.host, self.machine) == (socket.gethostname(), _machine())

    @property
    def is_alive(self) -> bool:
        """Whether the process is still running. Only valid if `is_here`."""
        return _start_time(self.pid) == self.started


def mark_process(pid: int) -> ProcessMark:
    """Return the mark of a process on this machine."""
    return ProcessMark(host=socket.gethostname(), machine=_machine(), pid=pid, started=_start_time(pid) or "")


@cache
def clock_name() -> str:
    """The name of the clock that `Clock.since_boot` reads. Equal names: times of both processes can be compared.

    It is empty where the system does not tell, and then nothing can be compared.
    """
    boot = _boot()
    namespace = Path("/proc/self/ns/time")
    return f"{boot} {os.readlink(namespace)}" if boot and namespace.is_symlink() else boot


@cache
def _machine() -> str:
    """The boot and the PID namespace. The host name alone does not distinguish containers."""
    boot = _boot()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}" if boot and sys.platform == "linux" else boot


def _boot() -> str:
    """A value that every boot of every machine has for itself, or an empty one."""
    if sys.platform == "linux":
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    if sys.platform == "darwin":
        asked = subprocess.run(["sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=False)
        return asked.stdout.strip()
    return ""


def _start_time(pid: int) -> str | None:
    """When a process started, exactly and always the same; None if there is no such process or only its zombie."""
    return _linux_start_time(pid) if sys.platform == "linux" else _other_start_time(pid)


def _linux_start_time(pid: int) -> str | None:
    # Clock ticks since boot. psutil adds the time of the boot, which the system changes when it sets the clock.
    try:
        # The fields after the command name, which may contain anything. State is the 1st, start
        # time the 20th of them.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _other_start_time(pid: int) -> str | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
    except psutil.NoSuchProcess:
        return None
