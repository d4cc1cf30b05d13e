"""A job on a cluster of two nodes, one of which is killed; prints its events as JSON. Run by test_two_nodes.py.

Ray reads the environment of the cluster on import, so this is a program of its own.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

STARTS = 20


def main(folder: Path) -> None:
    from tests.soak.cluster import TwoNodes, settings

    with tempfile.TemporaryDirectory(prefix="tz-", ignore_cleanup_errors=True) as directory:
        os.environ.update(settings(Path(directory)))
        cluster = TwoNodes()
        cluster.start()
        try:
            report = run(cluster, folder)
        finally:
            import ray

            ray.shutdown()
            cluster.stop()
    print(json.dumps(report))


def run(cluster: Any, folder: Path) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import ray

    from tests.pipeline.fakes import SLOW
    from tirazh.pipeline.build import run_job
    from tirazh.pipeline.execution.metrics import ProgressEvent
    from tirazh.pipeline.execution.metrics_client import start_metrics
    from tirazh.pipeline.spec import GenerateSpec

    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    here = ray.get_runtime_context().get_node_id()
    started = [start_metrics() for _ in range(STARTS)]
    for metrics in started:
        metrics.wait_until_ready()
    nodes = [ray._private.state.actors(metrics.actor._actor_id.hex())["Address"]["NodeID"] for metrics in started]
    for metrics in started:
        ray.kill(metrics.actor)

    rows = 400
    table = pa.table({"prompt": ["новость"] * rows, "max_new_tokens": [SLOW] * rows})
    pq.write_table(table, folder / "in.parquet")
    events: list[ProgressEvent] = []

    def kill_worker_node() -> None:
        while not (events and events[-1].parts_done > 4):
            time.sleep(0.1)
        cluster.kill_worker_node()

    threading.Thread(target=kill_worker_node, daemon=True).start()
    spec = GenerateSpec(
        input=(str(folder / "in.parquet"),), output=str(folder / "out"), part_rows=10, replicas="1:2", dtype="float32"
    )
    manifest = run_job(spec, engine="module:tests.pipeline.fakes", on_progress=events.append)
    return {
        "beside_the_driver": sum(node == here for node in nodes),
        "rows": [event.rows_done for event in events],
        "tokens": [event.prompt_tokens for event in events],
        "manifest_rows": manifest["rows"],
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
