"""Which process this is, told so that another process of the same machine can see whether it still lives."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessMark:
    """`machine` tells boots and containers apart, `started` processes that had the same number one after the other;
    both are empty where the system does not say."""

    host: str
    machine: str
    pid: int
    started: str

    @property
    def is_here(self) -> bool:
        """Whether the process is, or was, one of those that this process could see."""
        return (self.host, self.machine) == (socket.gethostname(), _machine())

    @property
    def is_alive(self) -> bool:
        """Whether it still runs. Only to be asked of one that `is_here`."""
        return _started(self.pid) == self.started


def mark_process(pid: int) -> ProcessMark:
    """The mark of a process of this machine."""
    return ProcessMark(host=socket.gethostname(), machine=_machine(), pid=pid, started=_started(pid) or "")


def _machine() -> str:
    """The kernel's boot and its space of process numbers; a host name alone is shared by containers."""
    if sys.platform != "linux":
        return ""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def _started(pid: int) -> str | None:
    """When the process began, in the system's own words; None where there is none, or only its zombie."""
    if sys.platform != "linux":
        told = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return told.stdout.strip() or None
    try:
        # Fields after the command's name, which may hold anything: state is the first of them, start time the 20th.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
