"""How much memory a process takes with everything it started: private pages of all, and shared memory once."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_KIB = 1024
_INTERVAL_S = 0.25


class PeakMemory:
    """`num_bytes` is the most that was seen so far."""

    num_bytes = 0


@contextmanager
def watching_memory(pid: int) -> Iterator[PeakMemory]:
    """Look at the tree below `pid` four times a second while the block runs. Linux only: elsewhere the peak stays 0."""
    peak, done = PeakMemory(), threading.Event()

    def watch() -> None:
        while not done.wait(_INTERVAL_S):
            peak.num_bytes = max(peak.num_bytes, tree_bytes(pid))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def tree_bytes(pid: int) -> int:
    """Bytes now. Every process's anonymous pages; of shared memory (Ray's object store, mapped by many) the largest
    mapping alone. Files that are mapped do not count: the system takes their pages back when it likes."""
    states = [state for each in tree_of(pid) if (state := _state(each)) is not None]
    return sum(anonymous for anonymous, _ in states) + max((shared for _, shared in states), default=0)


def tree_of(pid: int) -> list[int]:
    """`pid` and every process below it."""
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


def _state(pid: int) -> tuple[int, int] | None:
    """Anonymous and shared bytes of a process; None when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    values = {
        name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines) if "Rss" in name
    }
    return values.get("RssAnon", 0) * _KIB, values.get("RssShmem", 0) * _KIB
