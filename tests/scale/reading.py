"""Measures time and memory of planning and reading alone, in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass

from tests.conftest import REPOSITORY


@dataclass(frozen=True, kw_only=True)
class Reading:
    """`largest`: bytes of the largest part that was read; `grown`: growth of the process's peak memory in bytes."""

    files: int
    parts: int
    plan_s: float
    read_s: float
    largest: int
    grown: int


def read_parts(source: str, count: int, *, endpoint_url: str | None = None) -> Reading:
    """Plan a job over `source` and read its last `count` parts, for which a row group is decoded from its start."""
    spec = {"input": source, "output": "/nonexistent/out", "labels": "sport,economics", "endpoint_url": endpoint_url}
    done = subprocess.run(
        [sys.executable, "-m", "tests.scale.reading", json.dumps(spec), str(count)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2_000:])
    return Reading(**json.loads(done.stdout))


def main(settings: str, count: str) -> None:
    from tirazh.jobs.settings import build_spec
    from tirazh.pipeline.input.read import read_part
    from tirazh.pipeline.plan import plan_job
    from tirazh.pipeline.storage.filesystem import Storage

    spec = build_spec("classify", json.loads(settings))
    before, started = _peak(), time.monotonic()
    plan = plan_job(spec)
    planned = time.monotonic()
    last = plan.parts[len(plan.parts) - int(count) :]
    largest = max((read_part(part, Storage(spec.endpoint_url)).nbytes for part in last), default=0)
    figures = {"files": len(plan.files), "parts": len(plan.parts), "largest": largest, "grown": _peak() - before}
    print(json.dumps(figures | {"plan_s": planned - started, "read_s": time.monotonic() - planned}))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
