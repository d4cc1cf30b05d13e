"""Measure what the pipeline around the engine costs: Ray Data, Parquet, tokenising and writing. CPU only.

This is the only file of the benchmark that needs Ray, and only in the processes that it starts: the command itself,
and `python -m benchmarks.pipeline_speed SPEC` for the idle engine, which no flag of the command can select.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors.torch import save_file

from benchmarks.experiment import Experiment
from benchmarks.goals import Goal
from benchmarks.model_under_test import ModelUnderTest
from benchmarks.peers.ours import build_runner
from benchmarks.process_tree import watching_memory
from benchmarks.workloads import build_workload
from tirazh.model.checkpoints.directory import resolve_model
from tirazh.model.checkpoints.native import native_config
from tirazh.model.engine.batch_engine import BatchEngine
from tirazh.model.engine.config import EngineConfig
from tirazh.model.engine.scheduler import Scheduler
from tirazh.model.requests import Completion, EngineJob, GenerateRequest, SamplingParams
from tirazh.model.step import ROWS_ON_CPU
from tirazh.model.tokenizer import Tokenizer, load_tokenizer

_REPOSITORY = Path(__file__).resolve().parent.parent
_ROW_GROUP = 122_880  # rows; DuckDB and polars write row groups of about this size
_NUM_PARTS = 3
_START_ROWS = 1_000
_SHORTEST_STEADY_S = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ends:
    """The seconds from a run's start to the end of each part, and all completions as text, in order."""

    seconds: list[float]
    completions: list[str | None]

    @property
    def steady_s(self) -> float:
        return max(_SHORTEST_STEADY_S, self.seconds[-1] - self.seconds[0])


def measure_pipeline(
    under_test: ModelUnderTest, *, dtype: str, slots: int, threads: int, part_seconds: float = 30.0
) -> Experiment:
    """Run the ragged rows through `tirazh generate`, and through the bare engine before and after it."""
    job = _Job(under_test, dtype=dtype, slots=slots, threads=threads)
    part_rows = job.rows_in(part_seconds)
    job.make_rows(part_rows)
    before, whole, after = job.run_bare(), job.run_command(part_rows), job.run_bare()
    bare_s = (before.steady_s + after.steady_s) / 2
    ratio = bare_s / whole.steady_s
    same = sum(a == b for a, b in zip(whole.completions, before.completions, strict=True))
    rows: list[tuple[str | int | float, ...]] = []
    for name, ends in (("bare engine, before", before), ("tirazh generate", whole), ("bare engine, after", after)):
        rows.append((name, ends.seconds[0], ends.steady_s, part_rows * (_NUM_PARTS - 1) / ends.steady_s))
    how = (
        f"Alternating, {dtype}, one replica: {_NUM_PARTS} parts of {part_rows} ragged rows in a Parquet file, by the "
        "command line to the end of each output file, against the engine alone in this process. Rates are those from "
        "the end of the first part to the end of the last, so that neither the start nor the filling of slots counts. "
        f"The start took {whole.seconds[0] - after.seconds[0]:.1f} s: the first part's end against the bare engine's, "
        f"which has its model ready. {same} of {len(whole.completions)} completions are the same text."
    )
    columns = ("", "first part done after, s", f"the other {_NUM_PARTS - 1} parts, s", "rows/s")
    goal = Goal(text="pipeline over the bare engine, same rows", goal=0.97, measured=ratio)
    return Experiment(name="pipeline", how=how, columns=columns, rows=rows, goals=[goal])


def measure_idle(workdir: Path, *, row_counts: Sequence[int] = (1_000_000, 10_000_000)) -> Experiment:
    """Run short rows through the pipeline with an idle engine: its throughput, and whether its memory grows."""
    start_s, _ = _run_idle(workdir / "idle-start", _START_ROWS)
    rows: list[tuple[str | int | float, ...]] = []
    rates, peaks = [], []
    for count in row_counts:
        seconds, peak = _run_idle(workdir / f"idle-{count}", count)
        rates.append((count - _START_ROWS) / max(_SHORTEST_STEADY_S, seconds - start_s))
        peaks.append(peak)
        rows.append((count, seconds, count / seconds, rates[-1], peak / 2**20))
    how = (
        "`tirazh classify` with two labels and `actors/echo.py` in the model's place: texts of a few tokens, read, "
        f"tokenised, answered and written, to the end of the job. A job of {_START_ROWS:,} rows took {start_s:.1f} s: "
        "that is the start, which the last rate does not count. Memory is that of the driver with all Ray processes: "
        "private pages, and the object store once."
    )
    columns = ("rows", "seconds in all", "rows/s in all", "rows/s without the start", "peak memory, MiB")
    goals = [Goal(text=f"idle engine, rows/s at {row_counts[-1]:,} rows", goal=30_000, measured=rates[-1])]
    if len(peaks) > 1 and min(peaks) > 0:
        text = f"idle engine, peak memory at {row_counts[0]:,} rows over that at {row_counts[-1]:,}"
        goals.append(Goal(text=text, goal=0.9, measured=peaks[0] / peaks[-1]))
    return Experiment(name="idle", how=how, columns=columns, rows=rows, goals=goals)


class _Job:
    """The same rows as text in Parquet and as requests, and the same weights as a checkpoint and in memory."""

    def __init__(self, under_test: ModelUnderTest, *, dtype: str, slots: int, threads: int) -> None:
        self.under_test, self.dtype, self.slots, self.threads = under_test, dtype, slots, threads
        self.directory = under_test.workdir / "pipeline"
        self.tokenizer = load_tokenizer(resolve_model("embedded"))
        self.prompts: list[str] = []
        self.num_new: list[int] = []
        self.part_rows = 0

    def rows_in(self, seconds: float) -> int:
        """Estimate how many rows the engine runs in that time."""
        self.make_rows(2 * self.slots, parts=1)
        return max(4, round(2 * self.slots * seconds / self.run_bare().seconds[-1]))

    def make_rows(self, part_rows: int, *, parts: int = _NUM_PARTS) -> None:
        workload = build_workload("ragged", self.under_test.shape, num_rows=part_rows * parts)
        generator = np.random.default_rng(0)
        self.prompts = [_text(self.tokenizer, generator, len(row.prompt)) for row in workload.rows]
        self.num_new, self.part_rows = [row.num_new for row in workload.rows], part_rows

    def run_bare(self) -> _Ends:
        """Run the engine alone on all parts, submitted at once and in order."""
        model = self.under_test.ours("alternating", self.dtype)
        length = self.under_test.shape.num_positions
        runner: Any = build_runner(model, num_slots=self.slots, max_length=length)
        config = EngineConfig(
            num_slots=self.slots,
            max_length=length,
            num_tokens=min(self.tokenizer.size, self.under_test.shape.vocab_size),
            end_token_ids=self.tokenizer.end_token_ids,
            prefill_rows=ROWS_ON_CPU.prefill,
            decode_rows=ROWS_ON_CPU.decode,
        )
        scheduler = Scheduler(config, EngineJob(), window_size=runner.window_size)
        engine = BatchEngine(runner, scheduler, decode=self.tokenizer.decode)
        begin = time.perf_counter()
        requests = self._requests()
        parts = range(0, len(requests), self.part_rows)
        ids = [id for first in parts for id in engine.add(requests[first : first + self.part_rows])]
        left = [min(self.part_rows, len(requests) - first) for first in parts]
        row_of = {id: row for row, id in enumerate(ids)}
        seconds = [0.0] * len(left)
        completions: list[str | None] = [None] * len(requests)
        while engine.has_work:
            for id, result in engine.step():
                assert isinstance(result, Completion)
                part = row_of[id] // self.part_rows
                left[part] -= 1
                completions[row_of[id]] = self.tokenizer.decode(result.token_ids)
                if left[part] == 0:
                    seconds[part] = time.perf_counter() - begin
        return _Ends(seconds=seconds, completions=completions)

    def run_command(self, part_rows: int) -> _Ends:
        """Run `tirazh generate` on the rows as a user would."""
        source, output, model = self.directory / "rows.parquet", self.directory / "output", self.directory / "model"
        shutil.rmtree(self.directory, ignore_errors=True)
        self._write_model(model)
        columns = {"prompt": self.prompts, "max_new_tokens": pa.array(self.num_new, pa.int32())}
        pq.write_table(pa.table(columns), source)
        flags = {"input": source, "output": output, "model": model, "dtype": self.dtype, "part-rows": part_rows}
        flags |= {"slots": self.slots, "threads": self.threads, "temperature": 0}
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        begin = time.time()
        _run([sys.executable, "-m", "tirazh.jobs.cli", "generate", *words, "--quiet"])
        files = sorted(output.glob("part-*.parquet"))
        completions = [text for file in files for text in pq.read_table(file).column("completion").to_pylist()]
        return _Ends(seconds=sorted(file.stat().st_mtime - begin for file in files), completions=completions)

    def _requests(self) -> list[GenerateRequest]:
        greedy = {n: SamplingParams(max_new_tokens=n, temperature=0) for n in set(self.num_new)}
        ids = self.tokenizer.encode_many(self.prompts)
        return [
            GenerateRequest(prompt_token_ids=tuple(prompt), sampling=greedy[n], seed=0)
            for prompt, n in zip(ids, self.num_new, strict=True)
        ]

    def _write_model(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        config = self.under_test.shape.config("alternating")
        (directory / "config.json").write_text(json.dumps(native_config(config, "float32")), encoding="utf-8")
        save_file(self.under_test.weights, directory / "model.safetensors")
        shutil.copy(Path(resolve_model("embedded")) / "tokenizer.json", directory)


def _text(tokenizer: Tokenizer, generator: np.random.Generator, length: int) -> str:
    """Return random words of the vocabulary; when they are encoded again they are about `length` tokens."""
    return tokenizer.decode(generator.integers(300, tokenizer.size, length).tolist())


def _run_idle(directory: Path, num_rows: int) -> tuple[float, int]:
    """Return the seconds from the command to `_SUCCESS`, and the peak bytes."""
    source, output = directory / "input", directory / "output"
    _write_short_rows(source, num_rows)
    spec = {"input": str(source), "output": str(output), "labels": "sport,economics"}
    begin = time.time()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.pipeline_speed", json.dumps(spec)], cwd=_REPOSITORY, stderr=subprocess.PIPE
    )
    with watching_memory(process.pid) as peak:
        _, stderr = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the idle job failed: {stderr.decode(errors='replace')[-2000:]}")
    seconds = (output / "_SUCCESS").stat().st_mtime - begin
    shutil.rmtree(directory)
    return seconds, peak.num_bytes


def _write_short_rows(directory: Path, num_rows: int, *, file_rows: int = 1_000_000) -> None:
    directory.mkdir(parents=True)
    for number, first in enumerate(range(0, num_rows, file_rows)):
        count = min(file_rows, num_rows - first)
        texts = pc.cast(pa.array(np.arange(first, first + count)), pa.string())
        pq.write_table(pa.table({"text": texts}), directory / f"{number:03d}.parquet", row_group_size=_ROW_GROUP)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, cwd=_REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:5])} … failed: {done.stderr[-2000:]}")


def _run_with_idle_engine(settings: dict[str, Any]) -> None:
    from tirazh.jobs.settings import build_spec
    from tirazh.pipeline.build import run_job

    run_job(build_spec("classify", settings), engine="echo")


if __name__ == "__main__":
    _run_with_idle_engine(json.loads(sys.argv[1]))
