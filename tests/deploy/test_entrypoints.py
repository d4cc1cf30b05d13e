"""The command lines of the manifests, run as they are written: with a program that records them, and on a real head."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.deploy.manifests import DEPLOY, RAY_JOBS, job_spec, ray_job_spec
from tests.deploy.programs import write_program
from tests.docs.planned import skip_while_missing
from tests.jobs.clusters import ray_head


def record_calls(folder: Path, codes: list[int]) -> dict[str, str]:
    """Put a `tirazh` that records its arguments and ends with these codes in turn on the PATH, and a short `sleep`."""
    program = f'echo "$*" >> {folder}/calls\nset -- {" ".join(map(str, codes))}\n'
    write_program(folder / "tirazh", f"{program}shift $(($(wc -l < {folder}/calls) - 1))\nexit $1\n")
    write_program(folder / "sleep", "")
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize("name", RAY_JOBS)
@pytest.mark.parametrize(
    ("codes", "runs", "ends_with"),
    [([0], 1, 0), ([2, 0], 1, 2), ([1, 0], 2, 0), ([1, 1, 1, 0], 3, 1), ([143, 0], 2, 0)],
)
def test_the_entrypoint_of_a_ray_job_repeats_failures_but_no_wrong_request(
    name: str, codes: list[int], runs: int, ends_with: int, tmp_path: Path
) -> None:
    environment = record_calls(tmp_path, codes)
    entrypoint = ray_job_spec(name)["entrypoint"]
    assert subprocess.run(["sh", "-c", entrypoint], env=environment, check=False).returncode == ends_with
    assert len(calls(tmp_path)) == runs
    assert len(set(calls(tmp_path))) == 1
    assert calls(tmp_path)[0].startswith("run /jobs/job.yaml ")


def cronjob_command() -> list[str]:
    """The command line of the pod: the image's entry point with the container's arguments."""
    (container,) = job_spec("cronjob")["template"]["spec"]["containers"]
    assert "command" not in container
    assert 'ENTRYPOINT ["tirazh"]' in (DEPLOY / "Dockerfile").read_text()
    return ["tirazh", *container["args"]]


def test_the_night_of_a_raycronjob_is_the_day_before_in_utc_for_all_attempts(tmp_path: Path) -> None:
    environment = record_calls(tmp_path, [1, 0]) | {"TZ": "Asia/Tokyo"}
    yesterday = subprocess.run(["date", "-u", "-d", "yesterday", "+%F"], capture_output=True, text=True, check=True)
    subprocess.run(["sh", "-c", ray_job_spec("raycronjob")["entrypoint"]], env=environment, check=True)
    assert [f"--set yesterday={yesterday.stdout.strip()}" in call for call in calls(tmp_path)] == [True, True]


@pytest.mark.timeout(900)
@pytest.mark.ray
@pytest.mark.slow
def test_the_line_of_the_cronjob_twice_at_the_same_time_ends_twice_with_0_and_once_with_rows(tmp_path: Path) -> None:
    """A pod that was lost and its successor, or a night started twice: both follow the same job."""
    skip_while_missing("submit", "--set")
    job = tmp_path / "job.yaml"
    job.write_text(
        f"kind: generate\ninput: {REPOSITORY}/jobs/demo_data/prompts.jsonl\nmax_new_tokens: 8\n"
        f'output: "{tmp_path}/night-{{{{ yesterday }}}}"\n'
    )
    with ray_head(num_cpus=2) as head:
        places = {"/jobs/job.yaml": str(job), "http://ray-head-svc:8265": head.address}
        words = [places.get(word, word) for word in cronjob_command()[1:]]
        environment = head.environment | {"PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "tirazh", *words]
        both = [subprocess.Popen(command, env=environment, cwd="/") for _ in range(2)]
        assert [process.wait() for process in both] == [0, 0]
    (night,) = tmp_path.glob("night-*")
    assert re.fullmatch(r"night-\d{4}-\d\d-\d\d", night.name)
    assert (night / "_SUCCESS").is_file()
