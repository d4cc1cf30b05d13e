"""Two runs with the same output: the second is refused, or resumes at once when the first was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.seaweedfs import SeaweedServer
from tests.system.command import assert_one_sentence, end, part_files, run_tirazh, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_second_run_on_the_same_output_is_refused_and_the_first_continues(
    command: Callable[..., list[object]], start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    first = start(*command(output))
    wait_until(lambda: lease_of(output) is not None, timeout_s=60, what="the first run's lease")
    second = run_tirazh(*command(output))
    assert_one_sentence(second, exit_code=1, says=f"process {first.pid} on ")
    assert "wait for that run or stop it" in second.stderr
    overwriting = run_tirazh(*command(output, seed=4), "--overwrite")
    assert overwriting.returncode != 0
    _, err = first.communicate(timeout=200)
    assert first.returncode == 0, err
    assert run_tirazh("verify", output).returncode == 0
    last = lease_of(output)
    assert last is not None
    assert last["released"]


def test_a_run_that_lost_its_lease_stops_writing(
    command: Callable[..., list[object]], start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """SIGSTOP of the driver alone, as when a laptop sleeps: its replicas continue, and its lease is not renewed."""
    output = tmp_path / "out"
    first = start(*command(output, lease_s=3))
    wait_until(lambda: len(part_files(output)) >= 1, timeout_s=120, what="the first part")
    os.kill(first.pid, signal.SIGSTOP)
    lease = lease_of(output)
    assert lease is not None
    time.sleep(7)  # more than twice lease_s
    second = start(*command(output))
    wait_until(
        lambda: (lease_of(output) or lease)["epoch"] > lease["epoch"],
        timeout_s=60,
        what="the second run's lease",
    )
    os.kill(first.pid, signal.SIGCONT)
    _, err = first.communicate(timeout=120)
    assert_one_sentence((first.returncode, err.splitlines()[-1]), exit_code=1, says="it has stopped writing")
    _, err = second.communicate(timeout=200)
    assert second.returncode == 0, err
    assert run_tirazh("verify", output).returncode == 0


@pytest.mark.s3
@pytest.mark.parametrize("where", ["disk", "s3"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_rerunning_a_killed_command_resumes_without_waiting(
    command: Callable[..., list[object]],
    start: Callable[..., subprocess.Popen[str]],
    s3_server: SeaweedServer,
    number: signal.Signals,
    where: str,
    tmp_path: Path,
) -> None:
    more = {} if where == "disk" else {"endpoint_url": s3_server.endpoint_url}
    output = str(tmp_path / "out") if where == "disk" else f"{s3_server.make_bucket(f'twice-{number:d}')}/out"
    process = start(*command(output, **more))

    def has_two_parts() -> bool:
        if where == "disk":
            return len(part_files(Path(output))) >= 2
        bucket = output.removeprefix("s3://").partition("/")[0]
        return sum(".parquet" in entry["Key"] for entry in _keys(s3_server, bucket)) >= 2

    wait_until(has_two_parts, timeout_s=120, what="the second part")
    end(process, number=number)
    assert process.returncode == (-9 if number == signal.SIGKILL else 143)
    done = run_tirazh(*command(output, **more), timeout_s=200)
    assert done.returncode == 0, done.stderr
    assert "waiting" not in done.stderr
    endpoint = ["--endpoint-url", s3_server.endpoint_url] if where == "s3" else []
    verified = run_tirazh("verify", output, *endpoint)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def lease_of(output: Path) -> dict[str, Any] | None:
    """The record of the highest epoch."""
    files = sorted((output / "_tirazh/leases").glob("*.json"))
    return json.loads(files[-1].read_text()) if files else None


def _keys(server: SeaweedServer, bucket: str) -> list[dict[str, str]]:
    return list(server.client().list_objects_v2(Bucket=bucket).get("Contents", []))  # type: ignore[attr-defined]
