"""A job with near deduplication on a cluster of two nodes; prints which rows stayed as JSON. Run by test_two_nodes.py.

Ray reads the environment of the cluster on import, so this is a program of its own.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import polars as pl

from tirazh.pipeline.spec import GenerateSpec
from tirazh.pipeline.steps.expand import steps_of
from tirazh.pipeline.steps.run import run_steps


def job(folder: Path, output: str, model: str) -> GenerateSpec:
    """A job whose completions are its prompts, in 25 parts, so that the tasks of deduplication run on Ray."""
    return GenerateSpec(
        input=(str(folder / "in.parquet"),),
        output=str(folder / output),
        model=model,
        dtype="float32",
        part_rows=40,
        replicas="2",
        max_new_tokens=64,
        max_error_rate=1.0,
        dedup="near",
    )


def kept(output: Path) -> list[int]:
    """The ids of the rows that stayed, in order."""
    return pl.read_parquet(f"{output}/*.parquet", columns=["id"])["id"].to_list()


def main(folder: Path, model: str) -> None:
    from tests.soak.cluster import TwoNodes, settings

    with tempfile.TemporaryDirectory(prefix="tz-", ignore_cleanup_errors=True) as directory:
        os.environ.update(settings(Path(directory)))
        cluster = TwoNodes()
        cluster.start()
        try:
            report = run(cluster, folder, model)
        finally:
            import ray

            ray.shutdown()
            cluster.stop()
    print(json.dumps(report))


def run(cluster: Any, folder: Path, model: str) -> dict[str, Any]:
    import ray

    from tirazh.pipeline.quality.dedup import tasks

    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    steps = steps_of(job(folder, "two", model))
    assert steps is not None
    seen = tasks.run_on_ray
    calls: list[int] = []

    def counted(function: Any, shared: Any, items: Any) -> Any:
        calls.append(len(items))
        return seen(function, shared, items)

    import tirazh.pipeline.quality.dedup.find as find

    find.run_on_ray = counted
    manifest = run_steps(steps, engine="echo")
    nodes = {row["NodeID"] for row in ray.nodes() if row["Alive"]}
    return {
        "nodes": len(nodes),
        "tasks": sum(calls),
        "reasons": manifest["drop_reasons"],
        "kept": kept(folder / "two"),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
