"""Free host memory: the least that the machine and the containers of a process leave it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tirazh.model.host_memory import free_host_bytes

GIB = 1 << 30


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A machine with 16 GiB, 6 of them available."""
    write(tmp_path, "proc/meminfo", f"MemTotal: {16 * GIB >> 10} kB\nMemFree: 1 kB\nMemAvailable: {6 * GIB >> 10} kB\n")
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def group(root: Path, name: str, *, limit: str, used: int, droppable: int = 0) -> None:
    """Write the files of a control group of version 2."""
    write(root, f"sys/fs/cgroup/{name}/memory.max", f"{limit}\n")
    write(root, f"sys/fs/cgroup/{name}/memory.current", f"{used}\n")
    write(root, f"sys/fs/cgroup/{name}/memory.stat", f"anon {used}\ninactive_file {droppable}\n")


def test_free_memory_is_what_the_machine_has_available(host: Path) -> None:
    assert free_host_bytes(host) == 6 * GIB


def test_the_limit_of_a_container_counts(host: Path) -> None:
    write(host, "proc/self/cgroup", "0::/pod/main\n")
    group(host, "pod/main", limit=str(4 * GIB), used=3 * GIB)
    assert free_host_bytes(host) == GIB


def test_file_pages_that_a_container_may_drop_count_as_free(host: Path) -> None:
    write(host, "proc/self/cgroup", "0::/pod/main\n")
    group(host, "pod/main", limit=str(4 * GIB), used=3 * GIB, droppable=2 * GIB)
    assert free_host_bytes(host) == 3 * GIB


def test_the_limit_of_an_outer_control_group_counts(host: Path) -> None:
    write(host, "proc/self/cgroup", "0::/pod/main\n")
    group(host, "pod/main", limit="max", used=GIB)
    group(host, "pod", limit=str(3 * GIB), used=2 * GIB + GIB // 2)
    assert free_host_bytes(host) == GIB // 2


def test_control_groups_of_version_1_are_read(host: Path) -> None:
    write(host, "proc/self/cgroup", "5:cpu:/pod\n4:memory,other:/pod\n0::/\n")
    write(host, "sys/fs/cgroup/memory/pod/memory.limit_in_bytes", str(2 * GIB))
    write(host, "sys/fs/cgroup/memory/pod/memory.usage_in_bytes", str(GIB))
    write(host, "sys/fs/cgroup/memory/pod/memory.stat", "cache 5\ntotal_inactive_file 7\n")
    assert free_host_bytes(host) == GIB + 7


def test_free_memory_is_never_negative(host: Path) -> None:
    write(host, "proc/self/cgroup", "0::/\n")
    group(host, "", limit=str(GIB), used=2 * GIB)
    assert free_host_bytes(host) == 0


def test_free_memory_is_unknown_without_the_files_of_linux(tmp_path: Path) -> None:
    assert free_host_bytes(tmp_path) is None


def test_free_memory_of_this_machine_is_plausible() -> None:
    free = free_host_bytes()
    assert free is None or 0 <= free < 1 << 50
