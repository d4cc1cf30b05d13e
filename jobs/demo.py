"""`tirazh demo`: the two jobs on a small sample with the embedded model, and what came out, as a table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.progress import Progress
from jobs.run import run
from jobs.settings import build_spec
from model.errors import OutputError
from pipeline.schema import COMPLETION, CONFIDENCE, LABEL

DATA = Path(__file__).resolve().parent / "demo_data"
MARK = "made-by-tirazh-demo"
SHOWN_ROWS = 12
NUM_PROMPTS = 5
LANGUAGES = {"ru": "Russian", "en": "English"}


def run_demo(output: str, *, progress: Callable[[], Progress]) -> int:
    """Classify the sample news, continue five prompts, print both. `output` is emptied if a demo made it.

    Raises OutputError where `output` holds something else.
    """
    folder = Path(output)
    _make_room(folder)
    news, prompts = _write_inputs(folder / "input")
    started = _describe_start(news)
    print(started, flush=True)
    labelled = run(_classify_spec(folder, news), progress())
    rows = _read_rows(folder / "labels")
    _print_labels(rows)
    _print_accuracy(rows, labelled)
    run(_generate_spec(folder, prompts), progress())
    _print_completions(_read_rows(folder / "completions"))
    _print_next(folder)
    return 0


def _classify_spec(folder: Path, news: Path) -> Any:
    return build_spec(
        "classify",
        {
            "input": news,
            "output": folder / "labels",
            "labels": DATA / "labels.yaml",
            "gold_column": "gold",
            "overwrite": True,
        },
    )


def _generate_spec(folder: Path, prompts: Path) -> Any:
    return build_spec(
        "generate",
        {
            "input": prompts,
            "output": folder / "completions",
            "max_new_tokens": 40,
            "temperature": 0.7,
            "top_k": 40,
            "repetition_penalty": 1.1,
            "overwrite": True,
        },
    )


def _make_room(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).exists():
            raise OutputError(f"{folder} holds something that the demo did not make; give --output another directory")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()


def _write_inputs(folder: Path) -> tuple[Path, Path]:
    """The sample as Parquet, the way a user's data would come. The right answers go into a column `gold`."""
    folder.mkdir()
    news = [{**row, "gold": row.pop("label")} for row in _read_lines("news.jsonl")]
    prompts = _read_lines("prompts.jsonl")[:NUM_PROMPTS]
    for name, rows in (("news", news), ("prompts", prompts)):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return folder / "news.parquet", folder / "prompts.parquet"


def _read_lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines() if line]


def _read_rows(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("part-*.parquet")):
        rows += pq.read_table(path).to_pylist()
    return rows


def _describe_start(news: Path) -> str:
    count = pq.read_metadata(news).num_rows
    return f"Classifying {count} sample news items with the embedded model (Ray starts on this machine) ..."


def _print_labels(rows: Sequence[dict[str, Any]]) -> None:
    """A dozen rows, evenly taken from the sample so that both languages and all labels are among them."""
    from rich.console import Console
    from rich.table import Table

    table = Table("text", "gold", "label", "confidence", "", box=None, pad_edge=False)
    step = max(1, len(rows) // SHOWN_ROWS)
    for row in list(rows)[::step][:SHOWN_ROWS]:
        is_right = row[LABEL] == row["gold"]
        table.add_row(
            _shortened(row["text"], 56),
            row["gold"],
            row[LABEL] or "",
            f"{row[CONFIDENCE]:.2f}",
            "✓" if is_right else "✗",
        )
    Console().print(table)


def _print_accuracy(rows: Sequence[dict[str, Any]], manifest: dict[str, Any]) -> None:
    for code, language in LANGUAGES.items():
        chosen = [row for row in rows if row["language"] == code]
        right = sum(row[LABEL] == row["gold"] for row in chosen)
        if chosen:
            print(f"{language}: {right} of {len(chosen)} right ({right / len(chosen):.0%})")


def _print_completions(rows: Sequence[dict[str, Any]]) -> None:
    print("\nContinuing prompts (a small model: fluent for a few words, no more):")
    for row in rows:
        print(f"  {row['prompt']} → {_shortened(row[COMPLETION] or '', 90)}")


def _print_next(folder: Path) -> None:
    print(
        f"\nOutput: {folder}/labels/ and {folder}/completions/ (Parquet; report.html under _tirazh/)\n"
        f"Next:   tirazh verify {folder}/labels\n"
        "        tirazh classify --input 'news/*.parquet' --output out --labels economics,sport "
        "--text-column text"
    )


def _shortened(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"
