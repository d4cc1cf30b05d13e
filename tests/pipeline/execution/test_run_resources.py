"""Runs of one Ray session keep their own resources, and their steps never wait for a CPU of others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import ray
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

from tests.conftest import REPOSITORY
from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.placement import reserve
from tirazh.pipeline.execution.run_resources import StepCpus, own_session_steps, run_resources

REPLICA = ReplicaConfig(model="none", engine="echo")
TIMEOUT_S = 60

TWO_JOBS = """
import sys, threading
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq, ray
from tirazh.pipeline.build import run_job
from tirazh.pipeline.spec import GenerateSpec

folder, manifests, is_running = Path(sys.argv[1]), {}, threading.Event()

def job(name, rows, on_progress=None):
    (folder / name).mkdir()
    table = pa.table({"prompt": ["новость"] * rows, "max_new_tokens": [11 if name == "long" else 5] * rows})
    pq.write_table(table, folder / name / "in.parquet")
    spec = GenerateSpec(input=(str(folder / name / "in.parquet"),), output=str(folder / name / "out"), part_rows=5)
    manifests[name] = run_job(spec, engine="module:tests.pipeline.fakes", on_progress=on_progress)

def started(event):
    if event.replicas:
        is_running.set()

# The short job starts Ray, and its thread ends first.
short = threading.Thread(target=job, args=("short", 60, started))
short.start()
is_running.wait(250)
long = threading.Thread(target=job, args=("long", 400))
long.start()
short.join()
long.join()
assert {name: (each["rows"], each["replica_deaths"]) for name, each in manifests.items()} == {
    "short": (60, 0), "long": (400, 0)
}
assert not ray.is_initialized()
"""


@contextmanager
def holding(cpus: float) -> Iterator[None]:
    """Another user of the session holds CPUs."""
    group = placement_group([{"CPU": 1.0}] * int(cpus), name="users-own")
    try:
        assert group.wait(TIMEOUT_S)
        yield
    finally:
        remove_placement_group(group)


def state(name: str) -> str:
    return next(str(row["state"]) for row in placement_group_table().values() if row["name"] == name)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_the_end_of_a_run_frees_its_own_groups_alone() -> None:
    with holding(1), run_resources(REPLICA, replicas=(1, 1)) as first:
        kept = reserve(first.replica)
        assert kept.wait(TIMEOUT_S)
        with run_resources(REPLICA, replicas=(1, 1)) as second:
            assert second.replica.run_id != first.replica.run_id
            assert reserve(second.replica).wait(TIMEOUT_S)
        rows = [row for row in placement_group_table().values() if row["state"] == "CREATED"]
        assert not [row for row in rows if second.replica.run_id in row["name"]]
        assert [row for row in rows if row["placement_group_id"] == kept.id.hex()]
        assert state("users-own") == "CREATED"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_steps_reserve_no_cpu_in_a_session_that_others_use() -> None:
    with holding(ray.cluster_resources()["CPU"] - 1), run_resources(REPLICA, replicas=(1, 3)) as resources:
        assert resources.steps == StepCpus(num_cpus=0, concurrency=12)
        assert reserve(resources.replica).wait(TIMEOUT_S)


@pytest.mark.parametrize("cores", [1, 2, 3, 8, 64, 192])
def test_on_its_own_machine_a_run_uses_all_cores_for_steps_and_leaves_a_share_to_another_run(cores: int) -> None:
    steps, available = own_session_steps(cores), cores + 1
    assert available // steps.num_cpus == steps.concurrency == cores
    assert available - cores * steps.num_cpus > 0.4


@pytest.mark.ray
@pytest.mark.slow
def test_two_jobs_in_threads_share_the_ray_that_the_first_has_started(tmp_path: object) -> None:
    command = [sys.executable, "-c", TWO_JOBS, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
