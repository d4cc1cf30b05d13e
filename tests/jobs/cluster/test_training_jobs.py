"""A training as a job of a real cluster: submitted, watched, stopped, resumed and killed, and refused where no machine
can run it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.jobs.clusters import TOKEN, Head, another_node, ray_head
from tests.system.tiny_model import write_tiny_model
from tirazh.model.training.log import read_log

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3_600)]
STEPS = 1_200
WAIT_S = 1_200


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(num_cpus=2) as head:
        yield head


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


def write_job(folder: Path, model: str, *, output: str = "out", **settings: object) -> Path:
    """A job file of a training on short texts, with its input beside it."""
    texts = [f"Новость номер {row}: на складе {row * 7 % 13} ящиков" for row in range(200)]
    pq.write_table(pa.table({"text": texts}), folder / "in.parquet")
    job: dict[str, object] = {"kind": "finetune", "input": "in.parquet", "output": output, "model": model}
    job |= {"dtype": "float32", "device": "cpu", "seed": 5, "seq_length": 64, "batch_size": 4, "micro_batch_size": 4}
    job |= {"max_steps": STEPS, "save_steps": 100, "learning_rate": 1e-3, "lease_s": 10.0}
    path = folder / f"{Path(output).name}.yaml"
    path.write_text(yaml.safe_dump(job | settings))
    return path


def steps_done(output: Path) -> int:
    logs = [path for path in output.glob("_tirazh/trainings/*/losses.jsonl") if path.exists()]
    return max((entry["step"] for log in logs for entry in read_log(log)), default=0)


def wait_until(is_so: Callable[[], bool], head: Head, job_id: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline, head.tirazh("logs", job_id).stdout
        time.sleep(1)


def status(head: Head, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(head.tirazh("status", job_id, "--json").stdout)
    return found


def state_of(head: Head, job_id: str) -> str:
    """What the job server says, without the cost of a command."""
    asked = urllib.request.Request(f"{head.address}/api/jobs/{job_id}", headers={"Authorization": f"Bearer {TOKEN}"})
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return str(json.load(answer)["status"]).lower()
    except OSError:  # the head is busy
        return "pending"


def wait_for_end(head: Head, job_id: str, state: str) -> None:
    wait_until(lambda: state_of(head, job_id) not in ("pending", "running"), head, job_id)
    assert state_of(head, job_id) == state, head.tirazh("logs", job_id).stdout


def drivers_of(job_id: str) -> list[int]:
    """The Python processes that run the job's driver."""
    lines = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout.splitlines()
    found = [line.split(None, 2) for line in lines if line.endswith(f"tirazh.jobs.cluster.start {job_id}")]
    return [int(pid) for pid, program, _ in found if "python" in program]


def test_a_training_that_is_stopped_killed_and_resumed_ends_with_the_model_of_an_undisturbed_one(
    head: Head, model: str, tmp_path: Path
) -> None:
    whole_id = head.tirazh("submit", str(write_job(tmp_path, model, output="whole")), "-q").stdout.strip()
    wait_for_end(head, whole_id, "succeeded")
    said = head.tirazh("status", whole_id).stdout
    assert re.search(rf"^steps +{STEPS:,} of {STEPS:,}, checkpoint of step {STEPS:,}$", said, re.M)

    output = tmp_path / "parts"
    job_id = head.tirazh("submit", str(write_job(tmp_path, model, output="parts")), "-q").stdout.strip()
    wait_until(lambda: steps_done(output) >= 5, head, job_id)
    stopped = head.tirazh("stop", job_id)
    match = re.match(
        rf"{job_id} stopped at step ([\d,]+) of {STEPS:,}: the checkpoint of step ([\d,]+) is saved\n"
        rf"  `tirazh resume {job_id}` goes on from it\n",
        stopped.stdout,
    )
    assert match is not None, stopped.stdout + head.tirazh("logs", job_id).stdout
    seen, kept = (int(text.replace(",", "")) for text in match.groups())
    assert 5 <= seen <= kept < STEPS
    found = status(head, job_id)
    assert (found["state"], found["steps_total"], found["rows_total"]) == ("stopped", STEPS, None)
    saved = found["steps_saved"]
    assert saved == kept

    job_id = head.tirazh("resume", job_id, "-q").stdout.strip()
    wait_until(lambda: steps_done(output) >= saved + 25, head, job_id)
    for pid in drivers_of(job_id):
        os.kill(pid, signal.SIGKILL)
    wait_for_end(head, job_id, "failed")
    assert f"/{STEPS:,} steps" in head.tirazh("status").stdout

    job_id = head.tirazh("resume", job_id, "-q").stdout.strip()
    wait_for_end(head, job_id, "succeeded")
    for name in ("model.safetensors", "config.json"):
        assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_cluster_that_cannot_run_a_training_refuses_it_in_one_sentence(
    head: Head, model: str, tmp_path: Path
) -> None:
    def says(**settings: Any) -> str:
        job = write_job(tmp_path, settings.pop("model", model), **settings)
        done = head.tirazh("submit", str(job), "--follow")
        text = done.stdout + done.stderr
        assert done.returncode == 2, text
        assert "Traceback" not in text
        assert not (tmp_path / "out").exists()
        return [line for line in text.splitlines() if line.startswith("tirazh: ") and "warning" not in line][-1]

    assert "--workers 9 on --device cpu need 9 CPUs, but Ray has 2" in says(workers=9)
    assert "--workers 1 on --device cuda needs 1 GPU, but Ray has 0" in says(device="cuda")
    assert re.search(r"there is no model /no/model on machine \S+ \(", says(model="/no/model"))
    assert re.search(r"machine \S+ \(.*\) cannot write the output: .*/proc/out", says(output="/proc/out"))


def test_a_worker_on_a_machine_with_another_disk_is_refused(head: Head, model: str, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    job = write_job(tmp_path, model, output=str(tmp_path / "disk" / "out"), workers=3)
    with another_node(head, num_cpus=1, own_disk=tmp_path / "disk"):
        done = head.tirazh("submit", str(job), "--follow")
    assert done.returncode == 2, done.stdout + done.stderr
    sentence = (
        r"machine \S+ \(.*\) does not see the files that the driver writes to .*/out: the output must be on a disk"
    )
    assert re.search(rf"{sentence} that all machines of the cluster share$", done.stderr + done.stdout, re.M)
