"""Faults of the machine: a full disk, and a spot machine that is reclaimed with seconds of notice."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.command import assert_one_sentence, part_files, run_tirazh, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow]
GRACE_S = 2.0
BALLAST = "ballast"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB. Skips the test when this process may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path, *, leave: int) -> None:
    """Fill the disk except for `leave` bytes."""
    status = os.statvfs(disk)
    (disk / BALLAST).write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - leave)))


def assert_complete(output: Path) -> None:
    verified = run_tirazh("verify", output)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    left = {path.name for path in output.iterdir()} - set(part_files(output))
    assert left == {"_SUCCESS", "_tirazh"}


def test_a_disk_that_is_full_before_the_start_ends_in_one_sentence(
    command: Callable[..., list[object]], small_disk: Path
) -> None:
    fill(small_disk, leave=0)
    done = run_tirazh(*command(small_disk / "out"))
    assert_one_sentence(done, exit_code=1, says="the disk is full")
    (small_disk / BALLAST).unlink()
    assert run_tirazh(*command(small_disk / "out"), timeout_s=250).returncode == 0
    assert_complete(small_disk / "out")


def test_a_run_waits_while_the_disk_is_full_and_continues_when_it_has_space(
    command: Callable[..., list[object]], start: Callable[..., subprocess.Popen[str]], small_disk: Path
) -> None:
    output = small_disk / "out"
    process = start(*command(output))
    wait_until(lambda: len(part_files(output)) >= 2, timeout_s=150, what="the second part")
    fill(small_disk, leave=0)
    there = part_files(output)
    time.sleep(5.0)
    assert process.poll() is None
    assert part_files(output) == there, "the disk was not full"
    (small_disk / BALLAST).unlink()
    _, err = process.communicate(timeout=250)
    assert process.returncode == 0, err
    assert_complete(output)


@pytest.mark.timeout(900)
def test_a_disk_that_stays_full_ends_the_run_and_a_rerun_resumes(
    command: Callable[..., list[object]], start: Callable[..., subprocess.Popen[str]], small_disk: Path
) -> None:
    output = small_disk / "out"
    process = start(*command(output))
    wait_until(lambda: len(part_files(output)) >= 2, timeout_s=150, what="the second part")
    fill(small_disk, leave=0)
    _, err = process.communicate(timeout=350)  # a run retries storage for three minutes
    assert_one_sentence((process.returncode, err.splitlines()[-1]), exit_code=1, says="the disk is full")
    there = part_files(output)
    assert there
    (small_disk / BALLAST).unlink()
    done = run_tirazh(*command(output), timeout_s=250)
    assert done.returncode == 0, done.stderr
    after = part_files(output)
    assert {name: after[name] for name in there} == there
    assert_complete(output)


@pytest.mark.parametrize("seed", range(2))
def test_a_job_resumes_after_its_spot_machine_was_reclaimed(
    command: Callable[..., list[object]], start: Callable[..., subprocess.Popen[str]], tmp_path: Path, seed: int
) -> None:
    """SIGTERM to all processes of the run, and SIGKILL to those that still run after the grace period."""
    output = tmp_path / "out"
    process = start(*command(output))
    wait_until(lambda: len(part_files(output)) >= 1 + 3 * seed, timeout_s=150, what="a part")
    everything = [process.pid, *descendants(process.pid)]
    assert len(everything) > 5
    send(everything, signal.SIGTERM)
    time.sleep(GRACE_S)
    send(everything, signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    assert "Traceback" not in err
    there = part_files(output)
    assert not (output / "_SUCCESS").exists()
    done = run_tirazh(*command(output), timeout_s=250)
    assert done.returncode == 0, done.stderr
    assert "waiting" not in done.stderr, "the rerun waited for the lease of the killed run"
    after = part_files(output)
    assert {name: after[name] for name in there} == there
    assert_complete(output)


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def descendants(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []
    return [found for child in children for found in (child, *descendants(child))]
