"""A finished output of a million rows with ten labels: `python -m tests.pipeline.gold.million DIRECTORY` writes it,
evaluates it in a process of its own, and prints the time and the peak memory of that process."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.pipeline.gold.outputs import ENTRY, random_chances, write_output

ROWS, PARTS = 1_000_000, 20
LABELS = tuple(f"label {number}" for number in range(10))


def write_million(directory: Path, rows: int = ROWS) -> tuple[str, str]:
    """Write the output and a gold file with its rows in another order; return both."""
    chances = random_chances(rows, len(LABELS))
    best, confidence = chances.argmax(axis=1), chances.max(axis=1)
    names = pa.array(LABELS)
    entries = pa.StructArray.from_arrays(
        [names.take(np.tile(np.arange(len(LABELS)), rows)), pa.array(chances.ravel())], fields=list(ENTRY)
    )
    offsets = pa.array(np.arange(0, chances.size + 1, len(LABELS)), pa.int32())
    labels = names.take(pa.array(best)).to_pandas().where(confidence >= 0.3, None)
    table = pa.table(
        {
            "id": pa.array(range(rows), pa.int64()),
            "label": pa.array(labels, pa.string()),
            "confidence": pa.array(confidence),
            "probabilities": pa.ListArray.from_arrays(offsets, entries),
            "error": pa.nulls(rows, pa.string()),
        }
    )
    output = write_output(directory / "out", table, parts=PARTS, spec={"labels": dict.fromkeys(LABELS)})
    rng = np.random.default_rng(1)
    order = rng.permutation(rows)
    gold = (rng.random((rows, 1)) > np.cumsum(chances, axis=1)).sum(axis=1).clip(max=len(LABELS) - 1)
    pq.write_table(
        pa.table({"id": pa.array(order, pa.int32()), "label": names.take(pa.array(gold[order]))}),
        directory / "gold.parquet",
    )
    return output, str(directory / "gold.parquet")


def measure(output: str, gold: str) -> tuple[float, int]:
    """Seconds and peak memory in bytes of `tirazh evaluate` on an output."""
    command = [sys.executable, "-m", "tirazh", "evaluate", output, "--gold", gold, "--key", "id"]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    seconds, peak = measure(*write_million(target))
    print(f"{ROWS:,} rows, {len(LABELS)} labels: {seconds:.1f} s, {peak >> 20:,} MiB")
