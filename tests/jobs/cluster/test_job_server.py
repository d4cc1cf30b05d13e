"""Jobs on a real Ray cluster: they are submitted, followed, queried, resumed and stopped through the job server."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.jobs.clusters import TOKEN, Head, another_node, ray_head
from tests.packages import build, copy_tracked_files, environment, install, install_backend, write_traps
from tests.system.tiny_model import write_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(num_cpus=3) as head:
        yield head


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


def write_job(folder: Path, model: str, *, rows: int, **settings: object) -> Path:
    """A job file over `rows` prompts, in `folder`."""
    pq.write_table(pa.table({"prompt": [f"Новость номер {row}" for row in range(rows)]}), folder / "in.parquet")
    job = {"kind": "generate", "input": str(folder / "in.parquet"), "output": str(folder / "out"), "model": model}
    (folder / "job.yaml").write_text(yaml.safe_dump(job | {"dtype": "float32", "max_new_tokens": 4} | settings))
    return folder / "job.yaml"


def wait_for_rows(head: Head, job_id: str) -> dict[str, Any]:
    """Wait until rows are safe, and return the status."""
    deadline = time.monotonic() + 600
    while True:
        found: dict[str, Any] = json.loads(head.tirazh("status", job_id, "--json").stdout)
        if found["rows_safe"]:
            return found
        assert time.monotonic() < deadline, head.tirazh("logs", job_id).stdout
        time.sleep(1)


def wait_for(file: Path, head: Head, job_id: str) -> None:
    deadline = time.monotonic() + 300
    while not file.exists():
        assert time.monotonic() < deadline, head.tirazh("logs", job_id).stdout
        time.sleep(0.5)


def test_a_submitted_job_can_be_followed_queried_and_resumed(head: Head, model: str, tmp_path: Path) -> None:
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


def test_a_refused_job_ends_with_its_own_message_and_exit_code(head: Head, model: str, tmp_path: Path) -> None:
    job = write_job(tmp_path, model, rows=6, prompt_column="promt")
    done = head.tirazh("submit", str(job), "--follow")
    assert done.returncode == 2
    assert "tirazh: " in done.stdout
    assert "'promt'" in done.stdout
    job_id = re.findall(r"tirazh-out-[0-9a-f]{6}", done.stdout)[0]
    status = head.tirazh("status", job_id)
    assert (status.returncode, "failed" in status.stdout) == (1, True)
    stopped = head.tirazh("stop", job_id)
    assert (stopped.returncode, stopped.stdout.count("\n")) == (0, 1)
    second = head.tirazh("logs", job_id, "--follow")
    assert second.returncode == 2, "the second follower gets the job's code, too"


@pytest.mark.timeout(1_200)
def test_a_running_job_is_not_started_twice_and_is_stopped_without_losing_what_is_answered(
    head: Head, model: str, tmp_path: Path
) -> None:
    job = write_job(tmp_path, model, rows=3000, max_new_tokens=32, part_rows=8, slots=8, threads=1)
    job_id = head.tirazh("submit", str(job), "-q").stdout.strip()
    twice = head.tirazh("submit", str(job))
    assert twice.returncode == 0, twice.stderr
    assert f"{job_id} is already running" in twice.stdout
    running = wait_for_rows(head, job_id)
    assert (running["state"], running["rows_total"], running["parts_total"]) == ("running", 3000, 375)
    assert running["eta_s"] > 0
    assert running["output"] == str(tmp_path / "out")
    (listed,) = [each for each in json.loads(head.tirazh("status", "--json").stdout) if each["job"] == job_id]
    assert (listed["state"], listed["exit_code"]) == ("running", None)

    stopped = head.tirazh("stop", job_id)
    assert stopped.returncode == 0
    said = re.match(rf"{job_id} stopped: (\d+) rows answered, (\d+) safe in (\d+) of 375 parts\n", stopped.stdout)
    assert said is not None, stopped.stdout
    answered, safe, parts = map(int, said.groups())
    written = [pq.read_metadata(part).num_rows for part in (tmp_path / "out").glob("part-*.parquet")]
    assert (len(written), sum(written)) == (parts, safe)
    assert safe == 8 * parts > 0
    assert answered - safe < 8, "parts in work were not finished"
    assert f"{safe} safe in {parts} of 375 parts; `tirazh resume` makes the rest" in head.tirazh("logs", job_id).stdout
    again = head.tirazh("stop", job_id)
    assert again.returncode == 0
    assert again.stdout.startswith(f"{job_id} has ended already, so there is nothing to stop: it was stopped")


@pytest.mark.timeout(1_200)
def test_followers_of_one_job_that_submit_it_at_the_same_time_all_get_its_exit_code(
    head: Head, model: str, tmp_path: Path
) -> None:
    """As the pods of a CronJob: two start at once, and one is killed and started again."""
    job = write_job(tmp_path, model, rows=60, max_new_tokens=8)
    with ThreadPoolExecutor(3) as threads:
        first = [threads.submit(head.tirazh, "submit", str(job), "--follow") for _ in range(2)]
        follower = head.follower("submit", str(job), "--follow")
        time.sleep(15)
        follower.kill()
        follower.wait()
        first.append(threads.submit(head.tirazh, "submit", str(job), "--follow"))
        done = [each.result() for each in first]
    assert [each.returncode for each in done] == [0, 0, 0], "\n".join(each.stdout + each.stderr for each in done)
    ids = {re.findall(r"tirazh-out-[0-9a-f]{6}(?:-\d+)?", each.stdout)[0] for each in done[:2]}
    assert len(ids) == 1
    assert sum(each.stdout.startswith("submitted") for each in done[:2]) <= 1
    assert sum(pq.read_metadata(part).num_rows for part in (tmp_path / "out").glob("part-*.parquet")) == 60


@pytest.mark.timeout(1_200)
def test_a_job_of_a_head_that_was_restarted_is_forgotten_and_can_be_resumed(model: str, tmp_path: Path) -> None:
    job = write_job(tmp_path, model, rows=100, max_new_tokens=60)
    with ray_head(num_cpus=3) as head:
        job_id = head.tirazh("submit", str(job), "-q").stdout.strip()
        follower = head.follower("logs", job_id, "--follow")
        wait_for(tmp_path / "out/_tirazh/plan.json", head, job_id)
        assert follower.stdout is not None
        assert follower.stdout.readline(), "the follower has seen the job"
        ports = head.ports
    with ray_head(num_cpus=3, ports=ports) as head:
        _, message = follower.communicate(timeout=600)
        assert follower.returncode == 1
        assert "the cluster has forgotten its jobs" in message
        status = head.tirazh("status", job_id)
        assert status.returncode == 1
        assert f"`tirazh resume {job_id}` submits it again; finished parts are kept" in status.stderr
        stop = head.tirazh("stop", job_id)
        assert (stop.returncode, stop.stderr.count("\n")) == (1, 1)
        job.unlink()
        done = head.tirazh("resume", job_id, "--follow")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(pq.read_metadata(part).num_rows for part in (tmp_path / "out").glob("part-*.parquet")) == 100


def test_a_client_with_another_token_is_refused_with_the_name_of_the_variable(head: Head) -> None:
    other = dataclasses.replace(head, environment=head.environment | {"RAY_AUTH_TOKEN": "some-other-token" * 3})
    done = other.tirazh("status", "tirazh-x")
    assert done.returncode == 2
    assert "RAY_AUTH_TOKEN" in done.stderr
    assert "some-other-token" not in done.stderr


@pytest.mark.timeout(1_200)
def test_two_nodes_receive_only_the_package_and_execute_no_module_of_the_users_directory(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Submitted from an installed wheel, in a directory whose modules have the names of our folders."""
    backend = install_backend(tmp_path_factory.mktemp("backend"))
    source = copy_tracked_files(tmp_path_factory.mktemp("source"))
    wheel = build(source, "wheel", tmp_path_factory.mktemp("wheel"), backend=backend)
    installed = install(wheel, tmp_path_factory.mktemp("installed"))
    write_traps(tmp_path, tmp_path / "executed")
    job = write_job(tmp_path, "embedded", rows=8, replicas="2", part_rows=2, threads=1)
    # Each replica holds a CPU, so that one of the two runs on the second node.
    with ray_head(num_cpus=1) as head, another_node(head, num_cpus=3):
        done = head.tirazh("submit", str(job), "--follow", cwd=tmp_path, env=environment(installed))
        folders = head.directory.glob("session_latest/runtime_resources/working_dir_files/_ray_pkg_*")
        shipped = [{entry.name for entry in folder.iterdir()} for folder in folders if folder.is_dir()]
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(pq.read_metadata(part).num_rows for part in (tmp_path / "out").glob("part-*.parquet")) == 8
    assert not (tmp_path / "executed").exists()
    assert shipped == [{"tirazh", "job.yaml", "needs.json"}]
