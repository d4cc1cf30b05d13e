"""A training with a worker on each of two nodes, its data and its output in an object store (SeaweedFS), submitted by a
machine that has no data and no keys of the store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.jobs.cluster.test_training_jobs import state_of, status, wait_for_end, wait_until
from tests.jobs.clusters import Head, another_node, ray_head
from tests.seaweedfs import SeaweedServer
from tests.system.test_finetune_storage import saved_steps
from tests.system.tiny_model import write_tiny_model
from tirazh.pipeline.storage.filesystem import Storage

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.slow, pytest.mark.timeout(3_600)]
STEPS, SAVE_STEPS = 800, 50
NO_KEYS = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}


@pytest.fixture(scope="module")
def cluster(s3_server: SeaweedServer) -> Iterator[Head]:
    """Two nodes with one CPU each, which have the keys of the store in their environment."""
    with ray_head(num_cpus=1) as head, another_node(head, num_cpus=1):
        yield head


@pytest.fixture(scope="module")
def bucket(s3_server: SeaweedServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bucket with the training data."""
    texts = [f"Новость номер {row}: на складе {row * 7 % 13} ящиков" for row in range(200)]
    path = tmp_path_factory.mktemp("news") / "in.parquet"
    pq.write_table(pa.table({"text": texts}), path)
    bucket = s3_server.make_bucket("two-nodes")
    Storage(s3_server.endpoint_url).upload(str(path), f"{bucket}/in.parquet")
    return bucket


def write_job(folder: Path, server: SeaweedServer, bucket: str, *, output: str, work_dir: Path) -> str:
    """A job file of a training with two workers."""
    folder.mkdir(exist_ok=True)
    model = write_tiny_model(folder / "model")
    job: dict[str, object] = {"kind": "finetune", "input": f"{bucket}/in.parquet", "output": f"{bucket}/{output}"}
    job |= {"model": model, "workers": 2, "dtype": "float32", "device": "cpu", "seed": 5, "learning_rate": 1e-3}
    job |= {"seq_length": 64, "batch_size": 4, "micro_batch_size": 2, "max_steps": STEPS, "save_steps": SAVE_STEPS}
    job |= {"endpoint_url": server.endpoint_url, "work_dir": str(work_dir), "lease_s": 20.0}
    path = folder / f"{output}.yaml"
    path.write_text(yaml.safe_dump(job))
    return str(path)


def nodes_of_workers(head: Head) -> set[str]:
    """The nodes of this cluster, by the process ids of their raylets, that have processes that train."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if b"RayTrainWorker" in (path / "cmdline").read_bytes():
                text = (path / "environ").read_bytes().decode(errors="replace")
                for raylet in re.findall(r"RAY_RAYLET_PID=(\d+)", text):
                    if str(head.directory).encode() in Path(f"/proc/{raylet}/cmdline").read_bytes():
                        found.add(raylet)
        except OSError:  # it has ended
            continue
    return found


def model_in(storage: Storage, output: str) -> dict[str, bytes]:
    """The files of a model; its card names the output and the seconds that it took."""
    return {name: storage.read(f"{output}/{name}") for name in storage.names(output) if name != "README.md"}


def test_a_training_on_two_nodes_that_is_stopped_and_resumed_ends_with_the_model_of_an_undisturbed_one(
    cluster: Head, s3_server: SeaweedServer, bucket: str, tmp_path: Path
) -> None:
    def submit(output: str) -> str:
        job = write_job(tmp_path / "jobs", s3_server, bucket, output=output, work_dir=tmp_path / "work")
        done = cluster.tirazh("submit", job, "-q", env=NO_KEYS)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    storage = Storage(s3_server.endpoint_url)
    job_id = submit("whole")
    seen: set[str] = set()

    def has_ended() -> bool:
        seen.update(nodes_of_workers(cluster))
        return state_of(cluster, job_id) not in ("pending", "running")

    wait_until(has_ended, cluster, job_id)
    wait_for_end(cluster, job_id, "succeeded")
    assert len(seen) == 2, "a worker on each node"

    job_id = submit("parts")
    wait_until(lambda: bool(saved_steps(storage, f"{bucket}/parts")), cluster, job_id)
    stopped = cluster.tirazh("stop", job_id, env=NO_KEYS).stdout
    match = re.match(rf"{job_id} stopped at step (\d+) of {STEPS}: the checkpoint of step (\d+) is saved\n", stopped)
    assert match is not None, stopped + cluster.tirazh("logs", job_id).stdout
    saved = int(match[2])
    assert SAVE_STEPS <= saved < STEPS
    found = status(cluster, job_id)
    assert (found["state"], found["steps_saved"], found["steps_total"]) == ("stopped", saved, STEPS)
    assert "config.json" not in storage.names(f"{bucket}/parts")

    job_id = cluster.tirazh("resume", job_id, "-q", env=NO_KEYS).stdout.strip()
    wait_for_end(cluster, job_id, "succeeded")
    assert f"Going on from step {saved} of {STEPS}" in cluster.tirazh("logs", job_id).stdout
    assert model_in(storage, f"{bucket}/parts") == model_in(storage, f"{bucket}/whole")
    assert list((tmp_path / "work").iterdir()) == []


def test_a_directory_of_one_node_alone_is_refused(s3_server: SeaweedServer, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    with ray_head(num_cpus=1) as head, another_node(head, num_cpus=1, own_disk=tmp_path / "disk"):
        job = write_job(tmp_path / "jobs", s3_server, bucket, output="refused", work_dir=tmp_path / "disk/work")
        done = head.tirazh("submit", job, "--follow", env=NO_KEYS)
    text = done.stdout + done.stderr
    assert done.returncode == 2, text
    assert "Traceback" not in text
    assert re.search(
        rf"--work-dir {tmp_path}/disk/work must be on a disk that all machines of the cluster share: machine \S+", text
    )
    assert Storage(s3_server.endpoint_url).names(f"{bucket}/refused") == {}
