"""How right the forecasts of `tirazh plan` are: five workloads, planned with a probe and with a run beside them.

    python -m benchmarks.plan_accuracy --rows news.parquet --text-column text --work /tmp/plan-accuracy

Each workload is planned with `--probe`, run, planned again for another output beside the first (whose run it then
knows), and run again. The table has, for each of the two runs, the interval, its width, the wall time of the command,
Ray's start included, whether it was inside, and the tokens. To be run on a machine that does nothing else: the wall
time of a busy one says little.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

LABELS = ["спорт", "экономика", "культура", "наука", "мир"]


@dataclass(frozen=True, slots=True)
class Case:
    """A job over `rows` rows: `values` are those of its job file."""

    name: str
    rows: int
    values: dict[str, Any]


CASES = (
    Case("classify 300 rows", 300, {"kind": "classify", "labels": LABELS}),
    Case("classify 2,000 rows", 2_000, {"kind": "classify", "labels": LABELS}),
    Case("generate 100 x 48", 100, {"kind": "generate", "max_new_tokens": 48, "prompt_column": "text"}),
    Case(
        "generate 50 x 48, 4 samples",
        50,
        {"kind": "generate", "max_new_tokens": 48, "samples": 4, "temperature": 0.8, "prompt_column": "text"},
    ),
    Case("score 500 rows", 500, {"kind": "score"}),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a plan said about one run, and what it took. `tokens` are (estimated, counted)."""

    name: str
    source: str
    time_s: tuple[float, float]
    wall_s: float
    tokens: tuple[int, int]

    @property
    def is_inside(self) -> bool:
        return self.time_s[0] <= self.wall_s <= self.time_s[1]


def main() -> None:
    options = _parser().parse_args()
    work = Path(options.work)
    work.mkdir(parents=True, exist_ok=True)
    column = pq.read_table(options.rows, columns=[options.text_column]).column(0)
    texts = [str(text) for text in column.to_pylist() if text]
    outcomes = []
    for number, case in enumerate(CASES):
        if options.cases and number not in options.cases:
            continue
        outcomes += _measure(case, texts, work / f"case-{number}", options.model)
        print(_table(outcomes), flush=True)
    (work / "outcomes.json").write_text(json.dumps([_facts(each) for each in outcomes], indent=1), encoding="utf-8")


def _measure(case: Case, texts: list[str], folder: Path, model: str) -> list[Outcome]:
    folder.mkdir(exist_ok=True)
    rows = [texts[number % len(texts)] for number in range(case.rows)]
    if case.values["kind"] == "generate":
        rows = [text[:80] for text in rows]
    pq.write_table(pa.table({"text": rows}), folder / "in.parquet")
    return [_run(case, folder, night, model, probes=night == "night-1") for night in ("night-1", "night-2")]


def _run(case: Case, folder: Path, night: str, model: str, *, probes: bool) -> Outcome:
    job = folder / f"{night}.yaml"
    values = {"input": str(folder / "in.parquet"), "output": str(folder / "outputs" / night), "model": model}
    job.write_text(yaml.safe_dump(case.values | values, allow_unicode=True), encoding="utf-8")
    command = [sys.executable, "-m", "tirazh"]
    planned = json.loads(_output([*command, "plan", str(job), "--json", *(["--probe"] if probes else [])]))
    began = time.monotonic()
    manifest = json.loads(_output([*command, "run", str(job), "--json", "-q"]))
    wall_s = time.monotonic() - began
    low, high = planned["time_s"]
    counted = manifest["prompt_tokens"] + manifest["completion_tokens"]
    tokens = planned["prompt_tokens"] + planned["completion_tokens"]
    return Outcome(case.name, "probe" if probes else "history", (low, high), wall_s, (tokens, counted))


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _facts(outcome: Outcome) -> dict[str, Any]:
    low, high = outcome.time_s
    return {
        "case": outcome.name,
        "from": outcome.source,
        "time_s": [low, high],
        "width": round(high / low, 2) if low else None,
        "wall_s": round(outcome.wall_s, 1),
        "inside": outcome.is_inside,
        "tokens": list(outcome.tokens),
    }


def _table(outcomes: list[Outcome]) -> str:
    lines = [
        "| workload | from | estimate | width | wall | inside | tokens est./real |",
        "|---|---|---|--:|--:|---|--:|",
    ]
    for each in outcomes:
        low, high = each.time_s
        estimated, counted = each.tokens
        estimate = f"{low:.0f}-{high:.0f} s | {high / max(low, 1):.1f}x"
        lines.append(
            f"| {each.name} | {each.source} | {estimate} | {each.wall_s:.0f} s | "
            f"{'yes' if each.is_inside else 'NO'} | {estimated:,}/{counted:,} = {estimated / max(1, counted):.2f} |"
        )
    inside = sum(each.is_inside for each in outcomes)
    return "\n".join([*lines, "", f"{inside} of {len(outcomes)} inside"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", required=True, help="Parquet file with texts")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--work", default="/tmp/plan-accuracy", help="directory for job files and outputs")
    parser.add_argument("--cases", type=int, nargs="*", help="numbers of the workloads, from 0 (default: all)")
    return parser


if __name__ == "__main__":
    main()
