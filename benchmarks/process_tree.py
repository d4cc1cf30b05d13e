"""Measure the memory of a process and all its descendants: private pages of each, shared memory once. Linux only."""

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
    """The memory of one process: bytes of anonymous pages, and of shared memory (Ray's object store).

    Mapped files do not count, because the system can reclaim their pages at any time.
    """

    pid: int
    private: int
    shared: int


def tree_of(pid: int) -> list[int]:
    """Return `pid` and all its descendants; only `pid` where there is no /proc."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in brackets may contain anything; the parent is the second word after it.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue  # the process ended in the meantime
        children[parent].append(int(stat.parent.name))
    found, new = [], [pid]
    while new:
        found += new
        new = [child for each in new for child in children[each]]
    return found


def processes_of(pid: int) -> list[Process]:
    """Return the memory of `pid` and of its descendants that are alive."""
    return [process for each in tree_of(pid) if (process := _inspect(each)) is not None]


def sum_bytes(processes: list[Process]) -> int:
    """Return the private bytes of all processes plus the largest shared mapping."""
    return sum(each.private for each in processes) + max((each.shared for each in processes), default=0)


@contextmanager
def sampling(pid: int, note: Callable[[list[Process]], None]) -> Iterator[None]:
    """Call `note` with the processes of `pid`'s tree four times a second while the block runs."""
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
    """`num_bytes` is the maximum so far."""

    num_bytes = 0


@contextmanager
def watching_memory(pid: int) -> Iterator[PeakMemory]:
    """Track the peak memory of `pid`'s tree while the block runs; 0 where there is no /proc."""
    peak = PeakMemory()

    def note(processes: list[Process]) -> None:
        peak.num_bytes = max(peak.num_bytes, sum_bytes(processes))

    with sampling(pid, note):
        yield peak


def _inspect(pid: int) -> Process | None:
    """Return the process's memory, or None when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    sizes = {name: int(size) << 10 for name, size in re.findall(r"^(Rss\w+):\s+(\d+) kB", status, flags=re.MULTILINE)}
    return Process(pid, sizes.get("RssAnon", 0), sizes.get("RssShmem", 0))
