"""A million rows are compared with a million others, of which every hundredth has another label, in bounded time and
memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.pipeline.drift.nights import LABELS, write_night

pytestmark = pytest.mark.slow
ROWS = 1_000_000
# The peak of a child begins with that of its parent, so a small process starts the command.
MEASURE = """
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run([sys.executable, *sys.argv[1:]], check=True)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10, file=sys.stderr)
"""


def million(*, changed: bool) -> pa.Table:
    rng = np.random.default_rng(0)
    labels = rng.choice(5, ROWS, p=(0.4, 0.3, 0.16, 0.1, 0.04))
    labels = np.where(changed & (np.arange(ROWS) % 100 == 0), (labels + 1) % 5, labels)
    text = pa.array([f"story {row} " + "about the news of the day " * 12 for row in range(ROWS)])
    return pa.table(
        {
            "text": text,
            "label": pa.array(LABELS).take(pa.array(labels)),
            "confidence": pa.array(rng.beta(5, 1, ROWS).astype(np.float32)),
            "prompt_tokens": pa.array(rng.integers(20, 900, ROWS), pa.int32()),
            "error": pa.nulls(ROWS, pa.string()),
        }
    )


def test_a_million_rows_are_compared_in_bounded_time_and_memory(tmp_path: Path) -> None:
    last = write_night(tmp_path / "last", million(changed=False), parts=20)
    output = write_night(tmp_path / "output", million(changed=True), parts=20)
    flags = ["-m", "tirazh", "report", output, "--against", last, "--json"]
    done = subprocess.run([sys.executable, "-c", MEASURE, *flags], check=True, capture_output=True, text=True)
    seconds, peak = (float(value) for value in done.stderr.splitlines()[-1].split())
    print(f"{seconds:.1f} s, {peak / 1e6:,.0f} MB")
    (found,) = json.loads(done.stdout)["changed_rows"]
    assert (found["shared_rows"], found["changed"]) == (ROWS, ROWS // 100)
    assert len(found["examples"]) == 20
    assert seconds < 300
    assert peak < 1_000_000_000
