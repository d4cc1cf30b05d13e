"""`python -m tests.scale [EXPERIMENT ...] [--scratch DIR]`: measures, and prints each table as Markdown.

Ten million rows and the 5 GB files take about half an hour on two cores and 15 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY
from tests.scale.idle_job import Run, run_idle
from tests.scale.inputs import write_many_files, write_ragged_rows, write_short_rows
from tests.seaweedfs import SeaweedServer, find_weed

LABELS = "sport,economics"
MIB = 1 << 20
COLUMNS = ("input", "rows", "parts", "seconds", "rows/s", "CPU s", "driver", "actor", "rank", "step", "store", "all")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scale", description=__doc__)
    parser.add_argument("experiments", nargs="*", help=f"any of {', '.join(EXPERIMENTS)} (default: all)")
    parser.add_argument("--scratch", default=None, help="where the inputs are made (default: a temporary directory)")
    options = parser.parse_args(arguments)
    print(f"{platform.platform()}, {len(os.sched_getaffinity(0))} cores; load before: {os.getloadavg()[0]:.1f}")
    for name in options.experiments or EXPERIMENTS:
        with tempfile.TemporaryDirectory(prefix="tirazh-scale-", dir=options.scratch) as scratch:
            EXPERIMENTS[name](Path(scratch))
    return 0


def short_rows(scratch: Path) -> None:
    """A million and ten million rows of a few signs."""
    _head("Short rows, in MiB")
    for count in (1_000_000, 10_000_000):
        write_short_rows(scratch / f"in-{count}", count)
        _row(f"{count:,} short rows", _classify(scratch, scratch / f"in-{count}"))
        shutil.rmtree(scratch / f"in-{count}")


def large_files(scratch: Path) -> None:
    """5 GB in one file: one row group of everything, and forty."""
    _head("One file of 5 GB, in MiB")
    for groups in (1, 40):
        source = scratch / f"groups-{groups}" / "large.parquet"
        # In a process of its own: a row group is written out of memory.
        code = (
            "import sys; from tests.scale.inputs import *; write_large_file(Path(sys.argv[1]), 5 * 10**9, row_groups="
        )
        subprocess.run([sys.executable, "-c", f"{code}{groups})", str(source)], cwd=REPOSITORY, check=True)
        _row(f"{groups} row group{'s' * (groups > 1)}", _classify(scratch, source))
        shutil.rmtree(source.parent)


def ragged_rows(scratch: Path) -> None:
    """Texts from 1 byte to 10 MB in one file."""
    _head("From 1 byte to 10 MB, in MiB")
    source = scratch / "ragged" / "ragged.parquet"
    write_ragged_rows(source)
    _row("1 B to 10 MB", _classify(scratch, source, max_error_rate=1.0))


def many_files(scratch: Path) -> None:
    """Ten thousand files, listed and planned: on a disk, and on a real S3 server."""
    print("\n| ten thousand files | seconds to plan |\n|---|--:|")
    write_many_files(scratch / "many", 10_000)
    print(f"| on a disk | {_plan(str(scratch / 'many'), {}):.1f} |", flush=True)
    weed = find_weed()
    if weed is None:
        return
    (scratch / "weed").mkdir()
    server = SeaweedServer(weed, scratch / "weed")
    try:
        server.start()
        bucket = server.make_bucket("many")
        client: Any = server.client()
        data = (scratch / "many/00/00000.parquet").read_bytes()
        keys = [f"{number % 100:02d}/{number:05d}.parquet" for number in range(10_000)]
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda key: client.put_object(Bucket="many", Key=key, Body=data), keys))
        os.environ.update(server.environment)
        seconds = _plan(bucket, {"endpoint_url": server.endpoint_url})
        print(f"| on S3 (SeaweedFS on the same two cores) | {seconds:.1f} |", flush=True)
    finally:
        server.kill()


def _plan(source: str, more: dict[str, Any]) -> float:
    """Seconds of `plan_job` in a fresh process, imports left out."""
    spec = {"input": source, "output": "/nonexistent/out", "labels": LABELS, **more}
    code = (
        "import json, sys, time; from jobs.settings import build_spec; from pipeline.plan import plan_job; "
        "spec = build_spec('classify', json.loads(sys.argv[1])); begun = time.monotonic(); plan = plan_job(spec); "
        "assert len(plan.files) == 10_000, len(plan.files); print(time.monotonic() - begun)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(spec)], cwd=REPOSITORY, capture_output=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace")[-2_000:])
    return float(done.stdout)


def _classify(scratch: Path, source: Path, **more: Any) -> Run:
    spec = {"input": str(source), "output": str(scratch / "out"), "labels": LABELS, "dtype": "float32", **more}
    run = run_idle(spec)
    shutil.rmtree(scratch / "out")
    time.sleep(1)  # Ray's last processes are gone before the next run is watched
    return run


def _head(title: str) -> None:
    print(f"\n{title}:\n\n| {' | '.join(COLUMNS)} |\n|---{'|--:' * (len(COLUMNS) - 1)}|", flush=True)


def _row(name: str, run: Run) -> None:
    manifest, peaks = run.manifest, run.peaks
    roles = ("driver", "replica's actor", "rank", "a step's worker")
    sizes = [*(peaks.by_role[role] for role in roles), peaks.object_store, peaks.whole]
    cells = [f"{manifest['rows']:,}", f"{manifest['num_parts']:,}", f"{run.seconds:,.0f}", f"{run.rows_per_s:,.0f}"]
    cells.append(f"{peaks.cpu_s:,.0f}")
    print(f"| {name} | {' | '.join([*cells, *(f'{size / MIB:,.0f}' for size in sizes)])} |", flush=True)


EXPERIMENTS: dict[str, Callable[[Path], None]] = {
    "short-rows": short_rows,
    "many-files": many_files,
    "ragged-rows": ragged_rows,
    "large-files": large_files,
}

if __name__ == "__main__":
    sys.exit(main())
