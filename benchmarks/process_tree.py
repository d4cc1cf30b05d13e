"""The processes that a process started, and their memory: private pages of all, and shared memory once. Linux only."""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_INTERVAL_S = 0.25


@dataclass(frozen=True, slots=True)
class Process:
    """A process now: bytes of its anonymous pages, and of shared memory (Ray's object store, mapped by many). Files
    that are mapped do not count: the system takes their pages back when it likes."""

    pid: int
    private: int
    shared: int


def tree_of(pid: int) -> list[int]:
    """`pid` and every process below it; nothing but `pid` where there is no /proc."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in brackets may hold anything; the parent is the second word behind it.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue  # it ended while we looked
        children[parent].append(int(stat.parent.name))
    found, new = [], [pid]
    while new:
        found += new
        new = [child for each in new for child in children[each]]
    return found


def processes_of(pid: int) -> list[Process]:
    """The tree below `pid`, as far as it still lives."""
    return [process for each in tree_of(pid) if (process := _look(each)) is not None]


def sum_bytes(processes: list[Process]) -> int:
    """Private bytes of all, and the largest shared mapping alone."""
    return sum(each.private for each in processes) + max((each.shared for each in processes), default=0)


@contextmanager
def looking_at(pid: int, note: Callable[[list[Process]], None]) -> Iterator[None]:
    """Call `note` with the tree below `pid` four times a second while the block runs."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_INTERVAL_S):
            note(processes_of(pid))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class PeakMemory:
    """`num_bytes` is the most that was seen so far."""

    num_bytes = 0


@contextmanager
def watching_memory(pid: int) -> Iterator[PeakMemory]:
    """The peak of the tree below `pid` while the block runs; 0 where there is no /proc."""
    peak = PeakMemory()

    def note(processes: list[Process]) -> None:
        peak.num_bytes = max(peak.num_bytes, sum_bytes(processes))

    with looking_at(pid, note):
        yield peak


def _look(pid: int) -> Process | None:
    """None when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    sizes = {name: int(size) << 10 for name, size in re.findall(r"^(Rss\w+):\s+(\d+) kB", status, flags=re.MULTILINE)}
    return Process(pid, sizes.get("RssAnon", 0), sizes.get("RssShmem", 0))
