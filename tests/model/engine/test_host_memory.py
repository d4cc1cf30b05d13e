"""What a process may still take: the least that the machine and its containers leave it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tirazh.model.engine.host_memory import free_host_bytes

GIB = 1 << 30


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A machine with 16 GiB, of which 6 can be had."""
    write(tmp_path, "proc/meminfo", f"MemTotal: {16 * GIB >> 10} kB\nMemFree: 1 kB\nMemAvailable: {6 * GIB >> 10} kB\n")
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def group(root: Path, name: str, *, most: str, used: int, droppable: int = 0) -> None:
    """A control group of version 2."""
    write(root, f"sys/fs/cgroup/{name}/memory.max", f"{most}\n")
    write(root, f"sys/fs/cgroup/{name}/memory.current", f"{used}\n")
    write(root, f"sys/fs/cgroup/{name}/memory.stat", f"anon {used}\ninactive_file {droppable}\n")


def test_the_machine_alone(host: Path) -> None:
    assert free_host_bytes(host) == 6 * GIB


def test_a_container_with_a_limit(host: Path) -> None:
    write(host, "proc/self/cgroup", "0::/pod/main\n")
    group(host, "pod/main", most=str(4 * GIB), used=3 * GIB)
    assert free_host_bytes(host) == GIB


def test_what_a_container_may_drop_is_free(host: Path) -> None:
    write(host, "proc/self/cgroup", "0::/pod/main\n")
    group(host, "pod/main", most=str(4 * GIB), used=3 * GIB, droppable=2 * GIB)
    assert free_host_bytes(host) == 3 * GIB


def test_the_limit_of_the_group_around_it_counts_too(host: Path) -> None:
    write(host, "proc/self/cgroup", "0::/pod/main\n")
    group(host, "pod/main", most="max", used=GIB)
    group(host, "pod", most=str(3 * GIB), used=2 * GIB + GIB // 2)
    assert free_host_bytes(host) == GIB // 2


def test_a_container_of_the_older_kind(host: Path) -> None:
    write(host, "proc/self/cgroup", "5:cpu:/pod\n4:memory,other:/pod\n0::/\n")
    write(host, "sys/fs/cgroup/memory/pod/memory.limit_in_bytes", str(2 * GIB))
    write(host, "sys/fs/cgroup/memory/pod/memory.usage_in_bytes", str(GIB))
    write(host, "sys/fs/cgroup/memory/pod/memory.stat", "cache 5\ntotal_inactive_file 7\n")
    assert free_host_bytes(host) == GIB + 7


def test_never_less_than_nothing(host: Path) -> None:
    write(host, "proc/self/cgroup", "0::/\n")
    group(host, "", most=str(GIB), used=2 * GIB)
    assert free_host_bytes(host) == 0


def test_nothing_is_known_without_those_files(tmp_path: Path) -> None:
    assert free_host_bytes(tmp_path) is None


def test_this_machine() -> None:
    free = free_host_bytes()
    assert free is None or 0 <= free < 1 << 50
