"""Free host memory: what the machine, and every control group (container) of this process, still
has left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
# Files of a control group, version 2 then version 1: the limit, the memory in use, and the line of
# `memory.stat` that counts file pages which the kernel may drop at once (they are part of the
# memory in use).
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_host_bytes(root: Path = _ROOT) -> int | None:
    """Return the bytes that this process may still take before the machine or one of its control
    groups is full.

    None where the system does not report it (not Linux). `root` holds `proc` and `sys`.
    """
    free = [count for count in (_free_on_machine(root), *_free_in_groups(root)) if count is not None]
    return max(0, min(free)) if free else None


def _free_on_machine(root: Path) -> int | None:
    available = _named_integers(root / "proc/meminfo").get("MemAvailable")
    return None if available is None else 1024 * available


def _free_in_groups(root: Path) -> Iterator[int | None]:
    for group in _groups(root):
        for limit_file, usage_file, droppable in _FILES:
            limit, usage = _integer(group / limit_file), _integer(group / usage_file)
            if limit is not None and usage is not None:
                yield limit - usage + _named_integers(group / "memory.stat").get(droppable, 0)


def _groups(root: Path) -> Iterator[Path]:
    """Yield the control groups of this process and all groups that contain them.

    A line of `/proc/self/cgroup` is `id:controllers:path`; version 2 has no controllers, and
    version 1 mounts each controller in a directory of its own.
    """
    mounted = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        top = mounted / "memory" if controllers else mounted
        group = top / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))


def _named_integers(path: Path) -> dict[str, int]:
    """Read a file whose lines hold a name and an integer."""
    words = [line.replace(":", " ").split() for line in _text(path).splitlines()]
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdigit()}


def _integer(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
