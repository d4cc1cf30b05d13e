"""How right the plans of trainings are: three trainings, planned with a probe and then run.

    python -m benchmarks.training_plan_accuracy --rows news.parquet --text-column text

The trainings are a full one of a dense model in float32, one of sparse layers at 1,024 tokens, and LoRA. Each makes as
many steps as take about a minute by its first probe, is planned again with that number, and runs. A table has the
planned and the measured peak of the worker's memory and seconds of the command, Ray's start included, with the ratios.
To be run on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.process_tree import tree_of
from tirazh.model.checkpoints.directory import EMBEDDED_DIR

_INTERVAL_S = 0.2
_WORKER = "RayTrainWorker"
DENSE = "dense"  # stands for the directory of a model that the benchmark makes


@dataclass(frozen=True, slots=True)
class Case:
    """A training: its name, its model, and its other settings."""

    name: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case("full, dense, 256 tokens", DENSE, {"seq_length": 256, "batch_size": 8, "micro_batch_size": 4}),
    Case("full, sparse, 1,024 tokens", "embedded", {"seq_length": 1024, "batch_size": 4, "micro_batch_size": 1}),
    Case("LoRA, 512 tokens", "embedded", {"seq_length": 512, "batch_size": 8, "lora_rank": 8}),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a plan said of a training, and what it took: bytes of the worker's peak, and seconds of the command."""

    name: str
    steps: int
    planned_bytes: int
    peak_bytes: int
    planned_s: float
    wall_s: float


def main(argv: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(argv)
    machine = describe_machine()
    print(f"{machine.processor}, {machine.num_cores} cores, load {machine.load_average:.1f}", flush=True)
    with tempfile.TemporaryDirectory(prefix="tirazh-plans-") as folder:
        work = Path(folder)
        _write_dense_model(work / DENSE)
        outcomes = []
        for number, case in enumerate(CASES):
            if options.cases and number not in options.cases:
                continue
            outcomes.append(_measure(case, work / f"case-{number}", options))
            print(line_of(outcomes[-1]), flush=True)


def line_of(outcome: Outcome) -> str:
    """Return one line: planned and measured memory and time, and the ratios of measured to planned."""
    planned, peak = outcome.planned_bytes / 2**20, outcome.peak_bytes / 2**20
    return (
        f"{outcome.name:28} {outcome.steps:4} steps | memory {planned:,.0f} MiB planned, {peak:,.0f} MiB measured "
        f"({peak / planned:.2f}x) | time {outcome.planned_s:.0f} s planned, {outcome.wall_s:.0f} s measured "
        f"({outcome.wall_s / outcome.planned_s:.2f}x)"
    )


def _measure(case: Case, folder: Path, options: argparse.Namespace) -> Outcome:
    model = str(folder.parent / DENSE) if case.model == DENSE else case.model
    values = {"kind": "finetune", "input": options.rows, "text_column": options.text_column, "model": model}
    values |= {"output": str(folder / "out"), "dtype": "float32", "device": "cpu"} | case.settings
    folder.mkdir()
    first = _plan(values | {"max_steps": 1}, folder)
    steps = max(3, round(options.seconds / first["step_s"]))
    values |= {"max_steps": steps}
    planned = _plan(values, folder)
    print(f"{case.name}: {steps} steps of about {planned['step_s']:.1f} s", flush=True)
    began = time.monotonic()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*_COMMAND, "run", str(folder / "job.json"), "-q"], stdout=log, stderr=log)
        peak = _watch(process)
    if process.returncode:
        raise SystemExit(f"{case.name} failed: {(folder / 'log').read_text()[-2_000:]}")
    low, high = planned["time_s"]
    # The interval is a factor up and down from its middle.
    middle = (low * high) ** 0.5
    return Outcome(case.name, steps, planned["worker_memory_bytes"], peak, middle, time.monotonic() - began)


_COMMAND = [sys.executable, "-m", "tirazh"]


def _plan(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    job = folder / "job.json"
    job.write_text(json.dumps(values), encoding="utf-8")
    done = subprocess.run([*_COMMAND, "plan", str(job), "--probe", "--json"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the plan failed: {done.stderr[-2_000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _watch(process: subprocess.Popen[bytes]) -> int:
    """Wait for the process to end. Returns the greatest resident memory of a training worker among its descendants."""
    peak = 0
    while process.poll() is None:
        for pid in tree_of(process.pid):
            peak = max(peak, _worker_peak(pid))
        time.sleep(_INTERVAL_S)
    return peak


def _worker_peak(pid: int) -> int:
    """Return VmHWM of a process that is a training worker, bytes; 0 for others and for one that has ended."""
    try:
        if _WORKER not in Path(f"/proc/{pid}/cmdline").read_text():
            return 0
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def _write_dense_model(folder: Path) -> None:
    """Write a random GPT-2 of 17 million weights with the embedded model's tokenizer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    size = json.loads((Path(EMBEDDED_DIR) / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    config = GPT2Config(vocab_size=size, n_positions=1024, n_embd=384, n_layer=6, n_head=6)
    GPT2LMHeadModel(config).save_pretrained(folder)
    shutil.copy(Path(EMBEDDED_DIR) / "tokenizer.json", folder / "tokenizer.json")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=os.path.abspath, required=True, help="Parquet file with texts")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the steps of each training")
    parser.add_argument("--cases", type=int, nargs="*", help="numbers of the trainings, from 0 (default: all)")
    return parser


if __name__ == "__main__":
    main()
