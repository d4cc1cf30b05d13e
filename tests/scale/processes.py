"""Peak memory of a job's processes, by what they are: the driver, the replica, the steps, Ray's own, the object store.

Looked at some times a second from outside, by /proc. Anonymous pages only: mapped files are the system's to take back.
"""

from __future__ import annotations

import os
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.process_tree import tree_of

_INTERVAL_S = 0.25
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


@dataclass(frozen=True, slots=True)
class State:
    """One process now: private and shared bytes, and the CPU time it has had so far."""

    pid: int
    role: str
    private: int
    shared: int
    cpu_s: float


@dataclass
class Peaks:
    """Most bytes seen: of the largest process of each role, of all processes together, and of the object store."""

    by_role: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    private_sum: int = 0
    object_store: int = 0
    whole: int = 0
    cpu_s: float = 0.0  # of all processes that were seen, whatever else the machine did
    _cpu_by_pid: dict[int, float] = field(default_factory=dict)

    def note(self, states: list[State]) -> None:
        for state in states:
            self.by_role[state.role] = max(self.by_role[state.role], state.private)
            self._cpu_by_pid[state.pid] = state.cpu_s
        self.cpu_s = sum(self._cpu_by_pid.values())
        private_sum = sum(state.private for state in states)
        shared = max((state.shared for state in states), default=0)
        self.private_sum = max(self.private_sum, private_sum)
        self.object_store = max(self.object_store, shared)
        self.whole = max(self.whole, private_sum + shared)


@contextmanager
def watching(pid: int) -> Iterator[Peaks]:
    """Look at the tree of processes below `pid` while the block runs."""
    peaks, done = Peaks(), threading.Event()

    def watch() -> None:
        while not done.wait(_INTERVAL_S):
            peaks.note(_states(pid))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()


def _states(pid: int) -> list[State]:
    """`pid` and everything below it."""
    states = (_state(each, "driver" if each == pid else None) for each in tree_of(pid))
    return [state for state in states if state is not None]


def _state(pid: int, role: str | None) -> State | None:
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
        status = Path(f"/proc/{pid}/status").read_text()
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return None
    sizes = {name: int(size) << 10 for name, size in re.findall(r"^(Rss\w+):\s+(\d+) kB", status, flags=re.MULTILINE)}
    named = role or next((name for pattern, name in _ROLES if pattern.search(title)), "other")
    cpu_s = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
    return State(pid, named, sizes.get("RssAnon", 0), sizes.get("RssShmem", 0), cpu_s)
