"""The commands of the README and of the cluster tutorial, from a token to a finished job, on two nodes of this machine.

They run as they are written. Programs named `ray` and `tirazh` before the real ones choose free ports, so that other
clusters of this machine are left alone, and `s3://` addresses become a folder that both nodes see.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY
from tests.deploy.programs import write_program
from tests.docs.texts import fenced_blocks
from tests.jobs.clusters import free_ports
from tirazh.jobs.demo import DATA

README, TUTORIAL = REPOSITORY / "README.md", REPOSITORY / "docs/tutorials/cluster.md"
ROWS = 12
# `ray start` as it is written, then with --block and free ports in the background. Ray gives up after 30 seconds,
# which a busy machine may exceed, so it is tried again.
RAY = """case "$1 $2" in
"start --head") set -- --head --port={gcs} --dashboard-port={dashboard} --dashboard-agent-listen-port={first} \\
    --ray-client-server-port={client} --disable-usage-stats --num-cpus=2 --temp-dir={temp} ;;
"start --address={head}:{gcs}") set -- --address={head}:{gcs} --dashboard-agent-listen-port={second} --num-cpus=2 ;;
start*) echo "an unexpected command: ray $*" >&2; exit 1 ;;
*) exec {python} -m ray.scripts.scripts "$@" ;;
esac
for attempt in 1 2 3 4 5 6 7 8; do
    {python} -m ray.scripts.scripts start --block --node-ip-address={head} "$@" && break
done > {temp}.log 2>&1 < /dev/null &
echo $! >> {folder}/pids
"""


@dataclass
class Session:
    """A terminal in an empty home: what it exported stays, and the commands of documents find this cluster."""

    folder: Path
    gcs: int
    dashboard: int
    exports: list[str] = field(default_factory=list)
    job_id: str = "ID"

    def run(self, line: str) -> str:
        """Run a line of a document after all that it exported before. Returns what it printed."""
        places = {
            "HEAD:6379": f"127.0.0.1:{self.gcs}",
            "HEAD:8265": f"127.0.0.1:{self.dashboard}",
            " ID ": f" {self.job_id} ",
        }
        places |= {"s3://": f"{self.folder}/", "pip install": "true pip install"}  # tests/deploy/test_image.py installs
        for written, here in places.items():
            line = line.replace(written, here)
        script = "\n".join(["set -e", *self.exports, line])
        # `python` on the PATH of a node is the cluster's Python.
        path = f"{self.folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
        variables = {**os.environ, "HOME": str(self.folder), "PATH": path}
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            variables.pop(name, None)
        command = ["bash", "-c", script]
        done = subprocess.run(command, cwd=self.folder, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        self.exports += re.findall(r"^export .*$", line, flags=re.MULTILINE)
        return done.stdout

    def wait_for_nodes(self, count: int) -> None:
        """Wait until so many nodes are alive and the job server answers."""
        deadline = time.monotonic() + 900
        while time.monotonic() < deadline:
            try:
                alive = self.run(f"ray status --address=127.0.0.1:{self.gcs}").count(" node_")
                if alive >= count and self.has_job_server():
                    return
            except AssertionError:
                pass
            time.sleep(2)
        pytest.fail(f"{count} nodes with a job server did not start")

    def has_job_server(self) -> bool:
        """Whether the head answers a question about a job."""
        asked = self.run(f"tirazh status none --address http://127.0.0.1:{self.dashboard} 2>&1 || true")
        return "there is no job" in asked


@pytest.fixture
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("u")
    gcs, dashboard, first, second, client = free_ports(5)
    ports = {"gcs": gcs, "dashboard": dashboard, "first": first, "second": second, "client": client}
    # Ray's sockets need a short path.
    temp = Path("/tmp") / f"tz-{os.getpid()}-{gcs}"
    script = RAY.format(**ports, head="127.0.0.1", temp=temp, python=sys.executable, folder=folder)
    write_program(folder / "bin/ray", script)
    write_program(folder / "bin/tirazh", f'PYTHONPATH={REPOSITORY} exec {sys.executable} -m tirazh "$@"\n')
    texts = [json.loads(line)["text"] for line in (DATA / "news.jsonl").read_text(encoding="utf-8").splitlines()]
    (folder / "news/2026-11-23").mkdir(parents=True)
    pq.write_table(pa.table({"text": texts[:ROWS]}), folder / "news/2026-11-23/part.parquet")
    yield Session(folder, gcs, dashboard)
    end(folder / "pids")
    subprocess.run(["rm", "-rf", str(temp)], check=False)


def end(pids: Path) -> None:
    """End the loops that keep `ray start`, with their children."""
    for pid in map(int, pids.read_text().split() if pids.exists() else []):
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
        for each in (pid, *map(int, children.stdout.split())):
            try:
                os.kill(each, signal.SIGTERM)
            except ProcessLookupError:
                continue


def job_id_in(printed: str) -> str:
    """Return the id in what `submit` printed."""
    found = re.search(r"\btirazh-[\w.-]*\w", printed)
    assert found is not None, printed
    return found[0]


def blocks_of(path: Path) -> list[str]:
    """Return the bash blocks of the cluster tutorial, or of the README's section about clusters."""
    if path == README:
        (section,) = re.findall(r"^## On a cluster\n.*?(?=^## )", path.read_text(), flags=re.DOTALL | re.MULTILINE)
        return re.findall(r"^```bash\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)
    return fenced_blocks(path, "bash")


@pytest.mark.timeout(2400)
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("path", [README, TUTORIAL], ids=["readme", "tutorial"])
def test_the_commands_lead_from_nothing_to_a_finished_job_on_two_nodes(path: Path, session: Session) -> None:
    for job in fenced_blocks(path, "yaml"):
        # Both nodes see the folder of the session, as they would see an object store.
        (session.folder / job.splitlines()[0].removeprefix("# ")).write_text(
            job.replace("s3://", f"{session.folder}/"), encoding="utf-8"
        )
    for line in "\n".join(blocks_of(path)).splitlines():
        shown = session.run(line)
        if "ray start --address" in line:
            session.wait_for_nodes(2)
        if "tirazh submit" in line and session.job_id == "ID":
            session.job_id = job_id_in(shown)
    assert (session.folder / ".ray/auth_token").is_file()
    assert pq.read_table(session.folder / "labelled/2026-11-23").num_rows == ROWS


def test_the_readme_shows_every_step_once() -> None:
    text = "\n".join(blocks_of(README))
    steps = (
        "pip install",
        "ray get-auth-token",
        "export RAY_AUTH_MODE=token",
        "ray start --head",
        "ray start --address",
    )
    for step in (*steps, "tirazh submit", "tirazh status", "tirazh logs"):
        assert text.count(step) == 1, step
    assert "--follow" in text
