"""Runs a job on a cluster of one node and scrapes Ray's exporter; prints what it saw as JSON. Run by
test_prometheus.py, as Ray reads the environment of the cluster on import.

With the path of a `prometheus` program as the second argument, the queries of deploy/grafana.json are evaluated by it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROWS, PART_ROWS, BAD_ROWS = 300, 15, 6
FACTS = ("rows", "errors", "prompt_tokens", "completion_tokens", "replica_deaths", "num_parts")
_SAMPLE = re.compile(r"^ray_(tirazh_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
SCRAPES_S = 1


def main(folder: Path, prometheus: str | None) -> None:
    from tests.soak.cluster import settings

    with tempfile.TemporaryDirectory(prefix="tz-", ignore_cleanup_errors=True) as directory:
        os.environ.update(settings(Path(directory)))
        from ray.cluster_utils import Cluster

        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 3, "include_dashboard": False, "include_log_monitor": False},
        )
        try:
            report = run(cluster.address, folder, prometheus)
        finally:
            cluster.shutdown()
    print(json.dumps(report))


def run(address: str, folder: Path, prometheus: str | None) -> dict[str, Any]:
    import ray

    from tirazh.model.checkpoints.directory import EMBEDDED_DIR
    from tirazh.pipeline.build import run_job
    from tirazh.pipeline.spec import GenerateSpec

    write_input(folder / "in.parquet")
    model = shutil.copytree(EMBEDDED_DIR, folder / "model")  # the engine of the test leaves a note there
    ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    node = ray.nodes()[0]
    exporter = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
    ray.shutdown()
    during: list[dict[str, float]] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            during.append(scrape(exporter, "generate"))

    spec = GenerateSpec(
        input=(str(folder / "in.parquet"),),
        output=str(folder / "night"),
        model=str(model),
        part_rows=PART_ROWS,
        address=address,
        dtype="float32",
        max_error_rate=0.2,
    )
    with evaluating(prometheus, exporter, folder) as query:
        threading.Thread(target=watch, daemon=True).start()
        manifest = run_job(spec, engine="module:tests.pipeline.fakes")
        ended.set()
        # The driver has left the cluster: what it had recorded must have arrived.
        end = scrape(exporter, "generate")
        queries = query()
    return {
        "during": [values for values in during if values],
        "end": end,
        "manifest": {name: manifest[name] for name in FACTS},
        "queries": queries,
    }


def write_input(path: Path) -> None:
    """Slow rows, of which a few have no prompt, and one whose first answer kills the replica."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tests.pipeline.fakes import DEADLY_ONCE, SLOW

    prompts: list[str | None] = ["новость"] * ROWS
    prompts[:BAD_ROWS] = [None] * BAD_ROWS
    lengths = [SLOW] * ROWS
    lengths[ROWS // 2] = DEADLY_ONCE
    pq.write_table(pa.table({"prompt": prompts, "max_new_tokens": lengths}), path)


def scrape(exporter: str, kind: str) -> dict[str, float]:
    """The metrics of jobs of a kind, by name, and for metrics by phase by `name phase`."""
    with urllib.request.urlopen(f"http://{exporter}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    found: dict[str, float] = {}
    for name, labels, value in _SAMPLE.findall(text):
        by_name = dict(_LABEL.findall(labels))
        if by_name.get("kind") == kind:
            assert by_name["job"] == "night", by_name
            key = " ".join(filter(None, (name, by_name.get("phase"))))
            found[key] = found.get(key, 0.0) + float(value)
    return found


def dashboard_queries() -> list[str]:
    """The queries of deploy/grafana.json with values for its variables."""
    board = json.loads(Path("deploy/grafana.json").read_text(encoding="utf-8"))
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    values = {"$output": ".*", "$__rate_interval": "30s", "$__range": "1h"}
    for name, value in values.items():
        found = [query.replace(name, value) for query in found]
    return found


@contextmanager
def evaluating(prometheus: str | None, exporter: str, folder: Path) -> Iterator[Any]:
    """Yields a function that returns, for each query of the dashboard, how many series it has; none without a server.

    A query that has no series now, after the run, is asked about the time of the run.
    """
    if prometheus is None:
        yield dict
        return
    config = {
        "global": {"scrape_interval": f"{SCRAPES_S}s"},
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [exporter]}]}],
    }
    (folder / "prometheus.json").write_text(json.dumps(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        *(prometheus, f"--config.file={folder / 'prometheus.json'}", f"--storage.tsdb.path={folder / 'tsdb'}"),
        f"--web.listen-address={address}",
    ]
    begin = time.time()
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield lambda: {query: _num_series(address, query, begin) for query in dashboard_queries()}
    finally:
        server.terminate()
        server.wait(30)


def _num_series(address: str, query: str, begin: float) -> int:
    parameters = {"query": query, "start": begin, "end": time.time(), "step": "1"}
    url = f"http://{address}/api/v1/query_range?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        found = json.load(answer)
    assert found["status"] == "success", found
    return len(found["data"]["result"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
