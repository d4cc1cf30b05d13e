"""Identifies a process so that another process on the same machine can check whether it is still alive."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessMark:
    """The identity of a process.

    `machine` distinguishes boots and containers on the same host. `started` distinguishes processes
    that had the same process id one after the other. Both may be empty on systems other than Linux.
    """

    host: str
    machine: str
    pid: int
    started: str

    @property
    def is_here(self) -> bool:
        """Whether the process belongs to this host, boot and container, so that this process can see it."""
        return (self.host, self.machine) == (socket.gethostname(), _machine())

    @property
    def is_alive(self) -> bool:
        """Whether the process is still running. Only valid if `is_here`."""
        return _start_time(self.pid) == self.started


def mark_process(pid: int) -> ProcessMark:
    """Return the mark of a process on this machine."""
    return ProcessMark(host=socket.gethostname(), machine=_machine(), pid=pid, started=_start_time(pid) or "")


def _machine() -> str:
    """The boot id and the PID namespace. The host name alone does not distinguish containers."""
    if sys.platform != "linux":
        return ""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def _start_time(pid: int) -> str | None:
    """The start time of a process as the system prints it; None if there is no such process or only its zombie."""
    if sys.platform != "linux":
        ps = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return ps.stdout.strip() or None
    try:
        # The fields after the command name, which may contain anything. State is the 1st, start
        # time the 20th of them.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
