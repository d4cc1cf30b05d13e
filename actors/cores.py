"""The CPU cores that this process may use, and the threads of a rank, on Linux and macOS, in a container or not."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def threads_of_rank(cores: int, *, ranks: int = 1, ray_cpus: float | None = None, asked: int = 0) -> int:
    """Return the threads of a rank: those `asked` for, else its share of the node's cores.

    `cores`: what `usable_cores` returns on the node; `ranks`: those that share the node; `ray_cpus`: the
    CPUs that the node has in Ray, which may be fewer than the machine's. At least 1.
    """
    if asked:
        return asked
    usable = cores if ray_cpus is None else min(cores, max(1, int(ray_cpus)))
    return max(1, usable // max(1, ranks))


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use: those that it may run on, and no more
    than the CPU time that its container has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cpu_quota(cgroup: Path = _CGROUP, own_groups: Path = _OWN_GROUPS) -> float | None:
    """Return the CPUs' worth of time that this process may use; None without a limit.

    Reads the files of control groups, version 2 or 1. `own_groups` names the process's own groups. In a
    container they are usually the root of what is mounted; elsewhere, as in a unit of systemd, the groups
    above them limit the process too, so the least of their limits counts.
    """
    limits = [_limit(folder) for folder in _folders(cgroup, own_groups)]
    return min((limit for limit in limits if limit is not None), default=None)


def _folders(cgroup: Path, own_groups: Path) -> list[Path]:
    """Return the folders that may hold a limit: the roots, and the process's own groups with those above them."""
    roots = {"": cgroup, "cpu": cgroup / "cpu", "cpu,cpuacct": cgroup / "cpu,cpuacct"}
    folders = list(roots.values())
    try:
        lines = own_groups.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return folders
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for root in (roots[""],) if not controllers else (roots["cpu"], roots["cpu,cpuacct"]):
            group = Path(path.lstrip("/"))
            if ".." not in group.parts:  # a group outside the container's own namespace
                folders += [root / part for part in (group, *group.parents)]
    return folders


def _limit(folder: Path) -> float | None:
    """Return the limit that one group's files state, of version 2 or else 1."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        except (OSError, ValueError):
            return None
    try:
        limit = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return None
    return limit if limit > 0 else None
