"""The usable cores: the affinity of the process, the limit of its container, and systems without either."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tirazh.actors import cores
from tirazh.actors.cores import cpu_quota, threads_of_rank, usable_cores


def test_the_affinity_of_the_process_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "cpu_quota", lambda: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert usable_cores() == 3


def test_macos_has_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "cpu_quota", lambda: None)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert usable_cores() == 8


@pytest.mark.parametrize(("quota", "expected"), [(2.0, 2), (1.5, 2), (0.2, 1), (64.0, 4)])
def test_a_container_may_have_less_time_than_cores(
    quota: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    assert usable_cores() == expected


@pytest.mark.parametrize(("text", "expected"), [("150000 100000\n", 1.5), ("max 100000\n", None), ("x", None)])
def test_the_limit_is_read_from_version_2_of_control_groups(text: str, expected: float | None, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert cpu_quota(tmp_path, tmp_path / "none") == expected


@pytest.mark.parametrize(("quota", "expected"), [("200000", 2.0), ("-1", None)])
def test_the_limit_is_read_from_version_1_of_control_groups(quota: str, expected: float | None, tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000")
    assert cpu_quota(tmp_path, tmp_path / "none") == expected


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path, tmp_path / "none") is None


def write_limit(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(text)


def test_outside_a_container_the_groups_above_the_process_limit_it_too(tmp_path: Path) -> None:
    write_limit(tmp_path / "fs/batch.slice/job.service", "max 100000\n")
    write_limit(tmp_path / "fs/batch.slice", "300000 100000\n")
    (tmp_path / "own").write_text("0::/batch.slice/job.service\n")
    assert cpu_quota(tmp_path / "fs", tmp_path / "own") == 3.0
    write_limit(tmp_path / "fs/batch.slice/job.service", "50000 100000\n")
    assert cpu_quota(tmp_path / "fs", tmp_path / "own") == 0.5


def test_the_group_of_the_cpu_controller_counts_in_version_1(tmp_path: Path) -> None:
    for group, quota in (("jobs", "250000"), ("other", "100000")):
        folder = tmp_path / "fs/cpu,cpuacct" / group
        folder.mkdir(parents=True)
        (folder / "cpu.cfs_quota_us").write_text(quota)
        (folder / "cpu.cfs_period_us").write_text("100000")
    (tmp_path / "own").write_text("4:memory:/other\n2:cpu,cpuacct:/jobs\n0::/\n")
    assert cpu_quota(tmp_path / "fs", tmp_path / "own") == 2.5


def test_groups_outside_the_containers_namespace_are_not_followed(tmp_path: Path) -> None:
    write_limit(tmp_path / "other", "100000 100000\n")
    (tmp_path / "fs").mkdir()
    (tmp_path / "own").write_text("0::/../other\nbroken\n")
    assert cpu_quota(tmp_path / "fs", tmp_path / "own") is None


@pytest.mark.parametrize(
    ("cores", "ranks", "ray_cpus", "asked", "expected"),
    [
        (8, 1, None, 0, 8),
        (8, 2, None, 0, 4),
        (8, 3, 4.0, 0, 1),  # Ray was given fewer CPUs than the machine has
        (8, 1, 64.0, 0, 8),  # and here more than the container may use
        (2, 4, 0.0, 0, 1),
        (2, 4, 1.0, 6, 6),  # what is asked for is not cut
    ],
)
def test_the_threads_of_a_rank(cores: int, ranks: int, ray_cpus: float | None, asked: int, expected: int) -> None:
    assert threads_of_rank(cores, ranks=ranks, ray_cpus=ray_cpus, asked=asked) == expected
