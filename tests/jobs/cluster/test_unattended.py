"""A night nobody watches: one shell loop, while its follower, a machine and the head of the cluster are killed."""

from __future__ import annotations

import io
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from botocore.client import BaseClient

from tests.conftest import REPOSITORY
from tests.jobs.supervised import SupervisedCluster, supervised_cluster
from tests.seaweedfs import SeaweedServer
from tests.system.tiny_model import write_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2_400)]
ROWS = 800
FOLLOWERS_KILLED = 3


@pytest.fixture
def cluster(s3_server: SeaweedServer) -> Iterator[SupervisedCluster]:
    with supervised_cluster(head_cpus=2, worker_cpus=2) as cluster:
        yield cluster


def test_a_loop_around_submit_ends_with_all_rows_once(
    cluster: SupervisedCluster, s3_server: SeaweedServer, tmp_path: Path
) -> None:
    client, bucket = s3_server.client(), s3_server.make_bucket("unattended")
    write_rows(client)
    job = {
        **{"kind": "generate", "input": f"{bucket}/in.parquet", "output": f"{bucket}/out", "part_rows": 8},
        **{"endpoint_url": s3_server.endpoint_url, "model": write_tiny_model(tmp_path / "model"), "dtype": "float32"},
        **{"max_new_tokens": 48, "slots": 4, "replicas": "1:2", "threads": 1, "lease_s": 20},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    submit = [sys.executable, "-m", "tirazh", "submit", str(tmp_path / "job.yaml"), "--follow"]
    line = f"until {shlex.join([*submit, '--address', cluster.address])}; do sleep 3; done"
    log = tmp_path / "loop.log"
    with log.open("wb") as stream:
        loop = subprocess.Popen(
            ["sh", "-c", line], cwd=REPOSITORY, env=cluster.environment, stdout=stream, stderr=stream
        )
    try:
        wait_until(lambda: parts(client) >= 2, loop, log)
        for count in range(FOLLOWERS_KILLED):
            wait_until(lambda: kill_follower(loop.pid), loop, log)
            wait_until(lambda: log.read_bytes().count(b"is already running") > count, loop, log)  # noqa: B023
        cluster.worker.kill()
        before = parts(client)
        wait_until(lambda: parts(client) > before, loop, log)
        cluster.head.kill()
        wait_until(lambda: loop.poll() is not None, loop, log)
    finally:
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(loop.pid).children(recursive=True):
                process.kill()
        loop.kill()
    text = log.read_text()
    assert loop.returncode == 0, text
    assert (cluster.head.starts, cluster.worker.starts >= 2) == (2, True)
    assert "(its head was restarted): the job is submitted again (1 of at most 5 times)" in text
    assert "tirazh-progress" not in text
    assert sorted(ids(client)) == list(range(ROWS))
    verify = [sys.executable, "-m", "tirazh", "verify", f"{bucket}/out", "--endpoint-url", s3_server.endpoint_url]
    done = subprocess.run(verify, cwd=REPOSITORY, env=cluster.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def wait_until(is_so: Callable[[], bool], loop: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 900
    while not is_so():
        assert loop.poll() is None, f"the loop has ended too early\n{log.read_text()}"
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(1)


def kill_follower(loop: int) -> bool:
    """Kill the command that the loop runs now. Returns False if it sleeps."""
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(loop).children():
            if "submit" in process.cmdline():
                os.kill(process.pid, signal.SIGKILL)
                return True
    return False


def write_rows(client: BaseClient) -> None:
    stream = io.BytesIO()
    rows = range(ROWS)
    pq.write_table(pa.table({"id": list(rows), "prompt": [f"Новость номер {row}" for row in rows]}), stream)
    client.put_object(Bucket="unattended", Key="in.parquet", Body=stream.getvalue())


def part_keys(client: BaseClient) -> list[str]:
    found = client.list_objects_v2(Bucket="unattended", Prefix="out/part-").get("Contents", [])
    return [each["Key"] for each in found]


def parts(client: BaseClient) -> int:
    return len(part_keys(client))


def ids(client: BaseClient) -> list[int]:
    bodies = (client.get_object(Bucket="unattended", Key=key)["Body"].read() for key in part_keys(client))
    return [row for body in bodies for row in pq.read_table(io.BytesIO(body)).column("id").to_pylist()]
