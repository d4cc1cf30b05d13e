"""Runs a model of ruGPT-3 13B's size in 8 bits on this machine, through the whole pipeline.

    python -m benchmarks.thirteen_billion --folder DIR --tokenizer DIR                 (26 GB of disk, some minutes)
    python -m benchmarks.thirteen_billion --folder DIR --tokenizer DIR --layers 2      (a trial)

It writes a checkpoint of that shape (`large/checkpoint.py`) unless the folder has one, labels 50 rows, continues 5
prompts, and compares the logits of three rows with a float32 reference that is computed layer by layer, on one rank
and split over two. Memory is that of all processes of a job at its highest: private pages, and shared memory once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.large.checkpoint import LargeShape, write_checkpoint
from benchmarks.large.recorded_logits import FILE
from benchmarks.large.reference import reference_logits
from benchmarks.process_tree import Process, sampling, sum_bytes

LABELS = ("спорт", "экономика", "культура", "наука", "мир")
NUM_LABELLED, NUM_CONTINUED, NUM_COMPARED = 50, 5, 3
NEW_TOKENS = 16
_SLOTS = 16
_BEGINNINGS = (
    "Вчера в городе открылась выставка", "Учёные измерили температуру", "Команда выиграла матч со счётом",
    "Курс рубля вырос на", "Поезд прибыл на станцию", "В новом театре показали", "Министр рассказал о",
)  # fmt: skip


def main() -> None:
    """Write the checkpoint, run the jobs and print a table."""
    options = _parse()
    shape = LargeShape(num_layers=options.layers)
    model = options.folder / f"model-{options.layers}"
    if not (model / "model_args.json").exists():
        began = time.monotonic()
        write_checkpoint(model, shape)
        print(f"checkpoint of {_gib(_size(model))} written in {time.monotonic() - began:.0f} s", flush=True)
    texts = [f"{_BEGINNINGS[i % len(_BEGINNINGS)]} {i + 1}. " for i in range(NUM_LABELLED)]
    settings: dict[str, Any] = {"model": str(model), "tokenizer": str(options.tokenizer), "dtype": options.dtype}
    settings |= {"slots": _SLOTS, "device": "cpu", "overwrite": True, "start_timeout_s": 3600.0}

    labelling = {"kind": "classify", "labels": {each: each for each in LABELS}, "part_rows": NUM_LABELLED}
    _job("50 rows labelled", options.folder, texts, settings | labelling)
    continuing = {"kind": "generate", "prompt_column": "text", "temperature": 0.0, "max_new_tokens": NEW_TOKENS}
    _job("5 prompts continued", options.folder, texts[:NUM_CONTINUED], settings | continuing)
    continuing["max_new_tokens"] = 1
    found = {}
    for ranks in (1, 2) if options.ranks is None else options.ranks:
        name = f"3 rows at --tensor-parallel {ranks}"
        (model / FILE).unlink(missing_ok=True)
        more: dict[str, Any] = {"tensor_parallel": ranks, "engine": "module:benchmarks.large.recorded_logits"}
        _job(name, options.folder, texts[:NUM_COMPARED], settings | continuing | more)
        found[name] = torch.load(model / FILE)
    began = time.monotonic()
    prompts = [tokens for tokens, _ in next(iter(found.values()))]
    expected = reference_logits(str(model), prompts)
    print(f"float32 reference in {time.monotonic() - began:.0f} s", flush=True)
    for name, recorded in found.items():
        logits = {tuple(tokens): values for tokens, values in recorded}
        own = torch.stack([logits[tuple(prompt)] for prompt in prompts])
        cosines = torch.nn.functional.cosine_similarity(own, expected)
        print(f"{name}: cosine of the logits with float32 {', '.join(f'{x:.5f}' for x in cosines.tolist())}")


def _job(name: str, folder: Path, texts: list[str], settings: dict[str, Any]) -> None:
    """Run a job in a process of its own, and print its time, speed and memory."""
    source, output = folder / "rows.parquet", folder / name.replace(" ", "-")
    pq.write_table(pa.table({"text": texts}), source)
    job = folder / "job.json"
    job.write_text(json.dumps(settings | {"input": str(source), "output": str(output)}), encoding="utf-8")
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.large.run_one", str(job)])
    peak, largest = 0, 0

    def note(processes: list[Process]) -> None:
        nonlocal peak, largest
        peak = max(peak, sum_bytes(processes))
        largest = max(largest, *(each.private for each in processes), 0)

    with sampling(process.pid, note):
        if process.wait():
            sys.exit(f"{name}: the job failed")
    manifest = json.loads(job.with_suffix(".manifest.json").read_text(encoding="utf-8"))
    tokens = manifest["prompt_tokens"] + manifest["completion_tokens"]
    print(
        f"{name}: {time.monotonic() - began:.0f} s in all, {manifest['seconds']:.0f} s from the replica's start to the "
        f"last row, {tokens} tokens, {manifest['tokens_per_s']:.1f} tokens/s; peak memory {_gib(peak)}, of the largest "
        f"process {_gib(largest)}; errors {manifest['errors']}",
        flush=True,
    )


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the checkpoint and the jobs' files")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a directory with ruGPT-3's tokenizer")
    parser.add_argument("--layers", type=int, default=LargeShape().num_layers)
    parser.add_argument("--dtype", default="int8", help="of our engine")
    parser.add_argument("--ranks", type=int, nargs="*", help="values of --tensor-parallel to compare (1 and 2)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    return options


if __name__ == "__main__":
    main()
