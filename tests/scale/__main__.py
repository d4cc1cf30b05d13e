"""`python -m tests.scale [EXPERIMENT ...] [--scratch DIR]`: measures, and prints each table as Markdown.

Ten million rows and the 5 GB files take about half an hour on two cores and 15 GB of disk.
"""

from __future__ import annotations

import argparse
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
from tests.scale.reading import read_parts
from tests.seaweedfs import SeaweedServer, find_weed

LABELS = "sport,economics"
MIB = 1 << 20
COLUMNS = ("input", "rows", "parts", "seconds", "rows/s", "CPU s", "driver", "actor", "rank", "step", "store", "all")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scale", description=__doc__)
    parser.add_argument("experiments", nargs="*", help=f"any of {', '.join(EXPERIMENTS)} (default: all)")
    parser.add_argument("--scratch", default=None, help="directory for the inputs (default: a temporary one)")
    options = parser.parse_args(arguments)
    print(f"{platform.platform()}, {len(os.sched_getaffinity(0))} cores; load before: {os.getloadavg()[0]:.1f}")
    for name in options.experiments or EXPERIMENTS:
        with tempfile.TemporaryDirectory(prefix="tirazh-scale-", dir=options.scratch) as scratch:
            EXPERIMENTS[name](Path(scratch))
    return 0


def short_rows(scratch: Path) -> None:
    """A million and ten million rows of a few characters."""
    _head("Short rows, in MiB")
    for count in (1_000_000, 10_000_000):
        write_short_rows(scratch / f"in-{count}", count)
        _row(f"{count:,} short rows", _classify(scratch, scratch / f"in-{count}"))
        shutil.rmtree(scratch / f"in-{count}")


def large_files(scratch: Path) -> None:
    """5 GB in one file, with one row group and with forty.

    Reads the last part, for which the single row group is decoded completely, and runs a job over
    the first 200,000 rows (tokenising all five million takes an hour).
    """
    print("\n| one file of 5 GB | parts | last part, MiB | read in, s | process grew by, MiB |\n|---|--:|--:|--:|--:|")
    sources = {}
    for groups in (1, 40):
        sources[groups] = source = scratch / f"groups-{groups}" / "large.parquet"
        # In another process, as a row group is held in memory until it is written.
        code = (
            "import sys; from tests.scale.inputs import *; write_large_file(Path(sys.argv[1]), 5 * 10**9, row_groups="
        )
        subprocess.run([sys.executable, "-c", f"{code}{groups})", str(source)], cwd=REPOSITORY, check=True)
        read = read_parts(str(source), 1)
        figures = f"{read.parts:,} | {read.largest / MIB:.0f} | {read.read_s:.1f} | {read.grown / MIB:.0f}"
        print(f"| {groups} row group{'s' * (groups > 1)} | {figures} |", flush=True)
    _head("The first 200,000 rows of the 5 GB, in MiB")
    for groups, source in sources.items():
        _row(f"{groups} row group{'s' * (groups > 1)}", _classify(scratch, source, limit=200_000))


def ragged_rows(scratch: Path) -> None:
    """Texts from 1 byte to 10 MB in one file."""
    _head("From 1 byte to 10 MB, in MiB")
    source = scratch / "ragged" / "ragged.parquet"
    write_ragged_rows(source)
    _row("1 B to 10 MB", _classify(scratch, source, max_error_rate=1.0))


def many_files(scratch: Path) -> None:
    """Ten thousand files, listed and planned, on a disk and on a real S3 server."""
    print("\n| ten thousand files | seconds to plan |\n|---|--:|")
    write_many_files(scratch / "many", 10_000)
    print(f"| on a disk | {read_parts(str(scratch / 'many'), 0).plan_s:.1f} |", flush=True)
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
        seconds = read_parts(bucket, 0, endpoint_url=server.endpoint_url).plan_s
        print(f"| on S3 (SeaweedFS on the same two cores) | {seconds:.1f} |", flush=True)
    finally:
        server.kill()


def _classify(scratch: Path, source: Path, **more: Any) -> Run:
    spec = {"input": str(source), "output": str(scratch / "out"), "labels": LABELS, "dtype": "float32", **more}
    run = run_idle(spec)
    shutil.rmtree(scratch / "out")
    time.sleep(1)  # wait for the end of Ray's last processes
    return run


def _head(title: str) -> None:
    print(f"\n{title}:\n\n| {' | '.join(COLUMNS)} |\n|---{'|--:' * (len(COLUMNS) - 1)}|", flush=True)


def _row(name: str, run: Run) -> None:
    manifest, peaks = run.manifest, run.peaks
    roles = ("driver", "replica's actor", "rank", "a step's worker")
    sizes = [*(peaks.by_role[role] for role in roles), peaks.object_store, peaks.total]
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
