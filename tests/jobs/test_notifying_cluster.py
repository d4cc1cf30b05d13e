"""A submitted job on a real cluster: its driver is killed, and the follower tells; the address is in nothing of Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.jobs.clusters import Head, ray_head
from tests.receivers import receiver
from tests.system.command import part_files, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]
SECRET = "a-very-secret-part-of-an-address"
ROWS = 400


def test_the_follower_tells_once_that_the_driver_was_killed(tmp_path: Path) -> None:
    with receiver() as hook, ray_head(num_cpus=2) as head:
        follower = head.follower("submit", str(job_file(tmp_path, f"{hook.url}/{SECRET}")), "--follow")
        has_parts = lambda: len(part_files(tmp_path / "out")) > 1  # noqa: E731
        wait_until(lambda: has_parts() or follower.poll() is not None, timeout_s=600, what="some parts")
        assert follower.poll() is None, follower.communicate()
        (driver,) = drivers(head)
        os.kill(driver.pid, signal.SIGKILL)
        out, err = follower.communicate(timeout=120)
        assert follower.returncode == 1, err
        ((path, told),) = hook.posted
        assert path == f"/{SECRET}"
        assert "was killed by signal 9" in told["sentence"]
        assert (told["outcome"], told["exit_code"], told["output"]) == ("failure", 1, str(tmp_path / "out"))
        assert 0 < told["rows"] < ROWS
        assert SECRET not in out + err + described(head)
        assert [str(file) for file in logs_of(head) if SECRET.encode() in file.read_bytes()] == []
    for file in (tmp_path / "out").rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


def job_file(folder: Path, url: str) -> Path:
    pq.write_table(pa.table({"prompt": ["Новость дня:"] * ROWS}), folder / "in.parquet")
    values = {"kind": "generate", "input": str(folder / "in.parquet"), "output": str(folder / "out"), "part_rows": 5}
    values |= {"max_new_tokens": 60, "min_new_tokens": 60, "slots": 4, "notify": {"url": url}}
    (folder / "job.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "job.yaml"


def drivers(head: Head) -> list[psutil.Process]:
    """The Python process that runs the submitted job; other clusters may run on this machine."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if words[1:3] == ["-m", "tirazh.jobs.cluster.start"] and _is_of(process, head):
                found.append(process)
    return found


def _is_of(process: psutil.Process, head: Head) -> bool:
    return any(str(head.directory) in " ".join(parent.cmdline()) for parent in process.parents())


def described(head: Head) -> str:
    """What Ray shows about its jobs."""
    program = (
        "import sys; from ray.job_submission import JobSubmissionClient as C; "
        "print([vars(job) if hasattr(job, '__dict__') else job for job in C(sys.argv[1]).list_jobs()])"
    )
    command = [sys.executable, "-c", program, head.address]
    done = subprocess.run(command, env=head.environment, capture_output=True, text=True, timeout=120, check=True)
    assert "tirazh" in done.stdout
    return done.stdout


def logs_of(head: Head) -> list[Path]:
    return [path for path in head.directory.rglob("*.log") if path.is_file()]
