"""A finished output of a million rows with ten labels: `python -m tests.pipeline.relabel.million DIRECTORY` writes it,
calibrates and relabels it, each in a process of its own, and prints the times and the peaks of memory."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.pipeline.classification.calibration.samples import draw
from tirazh.pipeline import schema
from tirazh.pipeline.input.read import read_part
from tirazh.pipeline.job_run import JobRun
from tirazh.pipeline.output.ledger import finish
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import write_plan
from tirazh.pipeline.output.write import WriteStep
from tirazh.pipeline.plan import plan_job, with_dtype
from tirazh.pipeline.prompt_setup import set_up_prompts
from tirazh.pipeline.spec import ClassifySpec

ROWS, PARTS = 1_000_000, 20
LABELS = tuple(f"label {number}" for number in range(10))


def write_million(directory: Path, rows: int = ROWS, *, gold_rows: int = 500) -> str:
    """Write the output of a job over `rows` rows, of which the first `gold_rows` have a gold label."""
    scores, gold = draw(rows, len(LABELS), bias=0.5)
    golds = [LABELS[each] for each in gold[:gold_rows]] + [None] * (rows - gold_rows)
    (directory / "in").mkdir(parents=True)
    texts = pa.array([f"заголовок новости номер {number}, и ещё немного текста" for number in range(rows)])
    pq.write_table(
        pa.table({"id": pa.array(range(rows), pa.int64()), "text": texts, "topic": pa.array(golds, pa.string())}),
        directory / "in/news.parquet",
    )
    spec = ClassifySpec(
        input=(str(directory / "in"),),
        output=str(directory / "out"),
        labels=dict.fromkeys(LABELS),
        gold_column="topic",
        part_rows=rows // PARTS,
    )
    plan = with_dtype(plan_job(spec), "float32")
    output = OutputFiles(plan.job.storage, plan.job.output)
    run = JobRun(
        spec=spec,
        plan=plan,
        prompts=set_up_prompts(spec, plan),
        output=output,
        device="cpu",
        engine="model",
        lease=None,
        earlier_errors=0,
        on_progress=None,
        tell=None,
    )
    write_plan(output, plan)
    write = WriteStep(run.write_config())
    for part in plan.parts:
        table = read_part(part, output.storage, plan.schema)
        values = pa.array(scores[part.start : part.stop].ravel())
        offsets = pa.array(np.arange(0, len(values) + 1, len(LABELS)), pa.int32())
        table = table.append_column(schema.LABEL_LOGPROBS, pa.ListArray.from_arrays(offsets, values))
        table = table.append_column(schema.NUM_PROMPT_IDS, pa.array([12] * part.rows, pa.int32()))
        write(table.append_column(schema.ROW_ERROR, pa.nulls(part.rows, pa.string())))
    finish(plan, output, spec, {"seconds": 0.0, "resumed_parts": 0})
    return spec.output


def measure(*arguments: str) -> tuple[float, int]:
    """Seconds and peak memory in bytes of a command, in a process of its own."""
    # Not `getrusage`, whose peak begins with that of the process that was forked.
    code = (
        "import re, sys; from tirazh.jobs.cli import main; code = main(sys.argv[1:]); "
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]; "
        "print(code, int(peak) << 10, file=sys.stderr)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    end, peak = done.stderr.split()[-2:]
    assert end == "0", done.stderr
    return seconds, int(peak)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    made = write_million(target)
    file = str(target / "c.json")
    for name, arguments in {
        "calibrate": ["calibrate", made, "--out", file],
        "relabel --abstain-below": ["relabel", made, "--out", str(target / "a"), "--abstain-below", "0.5"],
        "relabel --calibration": ["relabel", made, "--out", str(target / "b"), "--calibration", file],
    }.items():
        seconds, peak = measure(*arguments)
        print(f"{name}: {ROWS:,} rows, {len(LABELS)} labels: {seconds:.1f} s, {peak >> 20:,} MiB")
