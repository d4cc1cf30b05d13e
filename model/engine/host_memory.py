"""How much memory this process may still take: of the machine, and of every container (control group) it is in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
# Files of a control group, of versions 2 and 1: its limit, what is used, and the line of what may be dropped of that.
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_host_bytes(root: Path = _ROOT) -> int | None:
    """Bytes until the machine, or a control group of this process, is full; None where nobody says (not Linux)."""
    rooms = [room for room in (_of_machine(root), *_of_groups(root)) if room is not None]
    return max(0, min(rooms)) if rooms else None


def _of_machine(root: Path) -> int | None:
    available = _numbers(root / "proc/meminfo").get("MemAvailable")
    return None if available is None else 1024 * available


def _of_groups(root: Path) -> Iterator[int | None]:
    for group in _groups(root):
        for limit, used, droppable in _FILES:
            most, taken = _number(group / limit), _number(group / used)
            if most is not None and taken is not None:
                yield most - taken + _numbers(group / "memory.stat").get(droppable, 0)


def _groups(root: Path) -> Iterator[Path]:
    """This process's own control groups and all those that they are in."""
    mounted = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if kinds and "memory" not in kinds.split(","):
            continue
        top = mounted / "memory" if kinds else mounted
        group = top / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))


def _numbers(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    words = [line.replace(":", " ").split() for line in _text(path).splitlines()]
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdigit()}


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
