"""Peak memory of a job's processes by role: driver, replica, steps, Ray's own processes, object store.

Sampled from /proc several times a second. Counts anonymous pages only: the kernel can drop pages of
mapped files.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.process_tree import Process, looking_at, sum_bytes

_ROLES = (
    (re.compile(r"^ray::.*(InferStep|_MapWorker)"), "replica's actor"),
    (re.compile(r"^ray::.*(RankActor|Rank\b|Rank\.)"), "rank"),
    (re.compile(r"^ray::.*Metrics"), "metrics"),
    (re.compile(r"^ray::.*(Split|Stats|Autoscal)"), "Ray Data's actors"),
    (re.compile(r"^ray::"), "a step's worker"),
    (re.compile(r"raylet$|/raylet "), "raylet"),
    (re.compile(r"gcs_server"), "gcs"),
    (re.compile(r"ray/(dashboard|_private|autoscaler)"), "Ray's helpers"),
)


@dataclass
class Peaks:
    """Peak bytes of the largest process of each role, of all processes together, and of the object store."""

    by_role: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    private_sum: int = 0
    object_store: int = 0
    total: int = 0
    cpu_s: float = 0.0  # of all processes of the job
    _cpu_by_pid: dict[int, float] = field(default_factory=dict)

    def note(self, processes: list[Process]) -> None:
        for process in processes:
            role = "driver" if process is processes[0] else _role(process.pid)
            self.by_role[role] = max(self.by_role[role], process.private)
            self._cpu_by_pid[process.pid] = max(self._cpu_by_pid.get(process.pid, 0.0), _cpu_s(process.pid))
        self.cpu_s = sum(self._cpu_by_pid.values())
        self.private_sum = max(self.private_sum, sum(process.private for process in processes))
        self.object_store = max(self.object_store, max((process.shared for process in processes), default=0))
        self.total = max(self.total, sum_bytes(processes))


@contextmanager
def watching(pid: int) -> Iterator[Peaks]:
    """Sample the process tree below `pid` while the block runs."""
    peaks = Peaks()
    with looking_at(pid, peaks.note):
        yield peaks


def _role(pid: int) -> str:
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return "other"
    return next((name for pattern, name in _ROLES if pattern.search(title)), "other")


def _cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process; 0 when it has ended."""
    try:
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return 0.0
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
