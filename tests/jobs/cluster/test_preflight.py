"""A cluster that cannot run a job refuses it before the first row, in one sentence that names the machine."""

from __future__ import annotations

import re
import site
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tests.jobs.cluster.test_job_server import write_job
from tests.jobs.clusters import TOKEN, Head, another_node, ray_head
from tests.jobs.plain_ray import make_plain_python
from tests.system.tiny_model import write_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1_200)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def plain_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_plain_python(tmp_path_factory.mktemp("plain") / "python")


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(num_cpus=2) as head:
        yield head


def refusal(done: subprocess.CompletedProcess[str], *, output: Path) -> str:
    """The sentence of a job that was refused. Checks that nothing was made."""
    text = done.stdout + done.stderr
    assert done.returncode == 2, text
    assert "Traceback" not in text
    assert not list(output.rglob("*.parquet"))
    assert not (output / "_tirazh" / "plan.json").exists()
    return [line for line in text.splitlines() if line.startswith("tirazh: ") and "warning" not in line][-1]


def test_what_one_machine_cannot_give_is_refused(head: Head, model: str, tmp_path: Path) -> None:
    def says(**settings: Any) -> str:
        job = write_job(tmp_path, settings.pop("model", model), rows=6, **settings)
        return refusal(head.tirazh("submit", str(job), "--follow"), output=tmp_path / "out")

    assert re.search(
        r"on machine \S+ \(.*\), where the driver of the job runs: input /no/in.parquet", says(input="/no/in.parquet")
    )
    assert re.search(r"there is no model /no/model on machine \S+ \(", says(model="/no/model"))
    assert "a replica of 8 ranks needs 8 CPU, but the cluster has 2 CPU" in says(tensor_parallel=8)
    assert "1 GPU" in says(device="cuda")
    assert re.search(r"machine \S+ \(.*\) cannot write the output: .*/proc/out", says(output="/proc/out"))
    assert not (tmp_path / "out").exists()


def test_submit_alone_waits_for_a_refusal(head: Head, model: str, tmp_path: Path) -> None:
    job = write_job(tmp_path, "/no/model", rows=6)
    assert "there is no model" in refusal(head.tirazh("submit", str(job)), output=tmp_path / "out")


def test_a_machine_with_another_disk_is_refused(head: Head, model: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    (disk / "shared").mkdir(parents=True)
    job = write_job(tmp_path, model, rows=6, output=str(disk / "shared" / "out"))
    with another_node(head, num_cpus=2, own_disk=disk):
        sentence = refusal(head.tirazh("submit", str(job), "--follow"), output=disk)
        assert re.search(r"machine \S+ \(.*\) does not see the files that the driver writes to .*/out", sentence)
        (tmp_path / "in.parquet").rename(disk / "in.parquet")
        moved = write_job(tmp_path, model, rows=6, input=str(disk / "in.parquet"))
        sentence = refusal(head.tirazh("submit", str(moved), "--follow"), output=tmp_path / "out")
        assert re.search(r"input .*/disk/in.parquet does not exist on machine", sentence)


def test_a_machine_without_the_packages_is_refused(head: Head, model: str, plain_python: Path, tmp_path: Path) -> None:
    job = write_job(tmp_path, model, rows=6)
    with another_node(head, num_cpus=2, python=plain_python):
        sentence = refusal(head.tirazh("submit", str(job), "--follow"), output=tmp_path / "out")
    assert re.search(r"machine \S+ \(\S+\) of the cluster has no torch, .*pyarrow.*: install them on all", sentence)


def test_a_cluster_of_plain_ray_names_what_is_missing_and_runs_the_job_that_brings_it(
    model: str, plain_python: Path, tmp_path: Path
) -> None:
    job = write_job(tmp_path, model, rows=6)
    with ray_head(num_cpus=2, python=plain_python) as head:
        sentence = refusal(head.tirazh("submit", str(job), "--follow"), output=tmp_path / "out")
        assert re.search(r"machine \S+ of the cluster has no deepspeed, .* more packages: install them", sentence)
        assert "`runtime_env: {pip: [...]}`" in sentence

        settings = yaml.safe_load(job.read_text())
        packages = site.getsitepackages()[0]
        settings["runtime_env"] = {"env_vars": {"PYTHONPATH": packages, "A_TOKEN": "hunter2-hunter2"}}
        job.write_text(yaml.safe_dump(settings))
        done = head.tirazh("submit", str(job), "--follow")
        assert done.returncode == 0, done.stdout + done.stderr
        job_id = re.findall(r"tirazh-out-[0-9a-f]{6}(?:-\d+)?", done.stdout)[0]
        again = head.tirazh("resume", job_id, "--follow")
        shown = head.tirazh("status", "--json").stdout + head.tirazh("logs", job_id).stdout
    assert again.returncode == 0, again.stdout + again.stderr
    assert sum(pq.read_metadata(part).num_rows for part in (tmp_path / "out").glob("part-*.parquet")) == 6
    kept = "".join(path.read_text(errors="ignore") for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert "hunter2" not in done.stdout + done.stderr + again.stdout + shown + kept
    assert TOKEN not in kept


def test_a_runtime_env_that_cannot_be_made_is_explained(head: Head, model: str, tmp_path: Path) -> None:
    job = write_job(tmp_path, model, rows=6)
    job.write_text(job.read_text() + "runtime_env: {conda: no-such-environment}\n")
    done = head.tirazh("submit", str(job), "--follow")
    assert done.returncode == 1
    assert re.search(
        r"^tirazh: the cluster could not start the driver of tirazh-out-\w+: .+; check `runtime_env:`$",
        done.stderr,
        re.M,
    )
    assert "Traceback" not in done.stderr
