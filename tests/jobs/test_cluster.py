"""A real Ray head with a job server: a job is submitted, followed, looked at, resumed, stopped."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.system.tiny_model import write_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.slow]

REPOSITORY = Path(__file__).resolve().parents[2]
TOKEN = "a-token-for-this-test-alone-" * 2


@dataclass(frozen=True)
class Head:
    """A running head: its job server's address and the environment that its clients need."""

    address: str
    environment: dict[str, str]

    def tirazh(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tirazh.jobs.cli", *arguments, "--address", self.address],
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )


@pytest.fixture(scope="module")
def head(short_directory: str) -> Iterator[Head]:
    """A head of its own, with a token that nobody else has; it ends with the process that started it."""
    bin_first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": bin_first, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    environment.pop("RAY_ADDRESS", None)
    gcs, dashboard, agent, client = free_ports(4)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=3"),
            *(f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
            *(f"--ray-client-server-port={client}", "--node-ip-address=127.0.0.1", "--disable-usage-stats"),
            f"--temp-dir={short_directory}",
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        head = Head(f"http://127.0.0.1:{dashboard}", environment)
        deadline = time.monotonic() + 120
        while "there is no job" not in head.tirazh("status", "nonesuch").stderr:
            assert time.monotonic() < deadline, "the head did not start"
            time.sleep(1)
        yield head
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def short_directory() -> Iterator[str]:
    """A temporary directory with a name short enough for the sockets that Ray puts there."""
    with tempfile.TemporaryDirectory(prefix="tz-", ignore_cleanup_errors=True) as directory:
        yield directory


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on. Ray's default ones belong to whoever else runs it on this machine."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


def write_job(folder: Path, model: str, *, rows: int, **settings: object) -> Path:
    """A job file over `rows` prompts, in `folder`."""
    pq.write_table(pa.table({"prompt": [f"Новость номер {row}" for row in range(rows)]}), folder / "in.parquet")
    job = {"kind": "generate", "input": str(folder / "in.parquet"), "output": str(folder / "out"), "model": model}
    (folder / "job.yaml").write_text(yaml.safe_dump(job | {"dtype": "float32", "max_new_tokens": 4} | settings))
    return folder / "job.yaml"


def test_a_job_runs_on_the_cluster_and_its_end_is_ours(head: Head, model: str, tmp_path: Path) -> None:
    job = write_job(tmp_path, model, rows=6)
    done = head.tirazh("submit", str(job), "--follow")
    assert done.returncode == 0, done.stdout + done.stderr
    (job_id,) = set(re.findall(r"tirazh-out-[0-9a-f]{6}", done.stdout))
    assert (tmp_path / "out/_SUCCESS").exists()
    assert sum(pq.read_metadata(part).num_rows for part in (tmp_path / "out").glob("part-*.parquet")) == 6
    assert TOKEN not in done.stdout + done.stderr

    assert "succeeded" in head.tirazh("status", job_id).stdout
    assert "6 of 6 rows" in head.tirazh("logs", job_id).stdout

    again = head.tirazh("resume", job_id, "--follow")
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"submitted {job_id}-2" in again.stdout
    assert "nothing was left to do" in again.stdout


def test_a_wrong_job_ends_with_its_own_sentence_and_exit_code(head: Head, model: str, tmp_path: Path) -> None:
    job = write_job(tmp_path, model, rows=6, prompt_column="promt")
    done = head.tirazh("submit", str(job), "--follow")
    assert done.returncode == 2
    assert "tirazh: " in done.stdout
    assert "'promt'" in done.stdout


def test_a_running_job_is_not_started_twice_and_can_be_stopped(head: Head, model: str, tmp_path: Path) -> None:
    job = write_job(tmp_path, model, rows=3000, max_new_tokens=200)
    job_id = head.tirazh("submit", str(job), "-q").stdout.strip()
    twice = head.tirazh("submit", str(job))
    assert twice.returncode == 2
    assert f"already running as {job_id}" in twice.stderr
    deadline = time.monotonic() + 120
    while not (tmp_path / "out/_tirazh/plan.json").exists():
        assert time.monotonic() < deadline, head.tirazh("logs", job_id).stdout
        time.sleep(0.5)
    stopped = head.tirazh("stop", job_id)
    assert stopped.returncode == 0
    assert "stopped" in stopped.stdout
    assert "run the same command to resume" in head.tirazh("logs", job_id).stdout


def test_who_has_no_token_is_told_so(head: Head) -> None:
    stranger = Head(head.address, head.environment | {"RAY_AUTH_TOKEN": "some-other-token" * 3})
    done = stranger.tirazh("status", "tirazh-x")
    assert done.returncode == 2
    assert "RAY_AUTH_TOKEN" in done.stderr
    assert "some-other-token" not in done.stderr
