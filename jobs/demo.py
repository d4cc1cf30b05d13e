"""`tirazh demo`: runs classify and generate on a small sample with the embedded model."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import OutputError
from tirazh.jobs.progress import JobProgressDisplay, clock_text
from tirazh.jobs.run import run
from tirazh.jobs.settings import build_spec
from tirazh.pipeline.schema import COMPLETION, CONFIDENCE, LABEL, PROMPT
from tirazh.pipeline.spec import JobSpec

DATA = Path(__file__).resolve().parent / "demo_data"
MARK = ".made-by-tirazh-demo"
GOLD = "gold"
NUM_SHOWN = 12
WIDTH = 240  # characters of a completion and the line before it
# The kinds of prompts, and the headings of what the model writes after them.
KINDS = {
    "continuation": "Continuations",
    "dialogue": "A dialogue",
    "recommendation": "A recommendation",
    "json": "News as JSON",
}
LANGUAGES = {"ru": "Russian", "en": "English"}
Rows = Sequence[dict[str, Any]]


def run_demo(
    output: str, *, progress: Callable[[], JobProgressDisplay], say: Callable[[str], object]
) -> dict[str, Any]:
    """Classify the sample news, continue the sample prompts and print both with `say`.

    Removes the output of an earlier demo first. Returns rows, seconds and accuracy. Raises
    OutputError when `output` holds anything else.
    """
    from tirazh.pipeline.execution.ray_session import ray_session

    folder = Path(output)
    _prepare_folder(folder)
    _write_inputs(folder / "input")
    classify, generate = _classify_spec(folder), _generate_spec(folder)
    say("Classifying 60 sample news items with the embedded model; starting Ray on this machine ...\n")
    # One Ray for both jobs, as starting it takes seconds.
    with ray_session(classify):
        labelled = run(classify, progress())
        rows = _read_rows(folder / "labels")
        accuracy = _accuracy(rows)
        say(_label_table(rows))
        say(_figures(accuracy, labelled))
        say(f"Continuing {len(_lines('prompts.jsonl'))} prompts ...\n")
        run(generate, progress())
    say(_completions(_read_rows(folder / "completions")))
    say(_what_next(folder))
    return {"rows": labelled["rows"], "seconds": labelled["seconds"], "accuracy": accuracy, "output": str(folder)}


def _classify_spec(folder: Path) -> JobSpec:
    return build_spec(
        "classify",
        {
            "input": folder / "input/news.parquet",
            "output": folder / "labels",
            "labels": DATA / "labels.yaml",
            "gold_column": GOLD,
            "calibrate": True,
        },
    )


def _generate_spec(folder: Path) -> JobSpec:
    return build_spec(
        "generate",
        {
            "input": folder / "input/prompts.parquet",
            "output": folder / "completions",
            "max_new_tokens": 120,
            "temperature": 0.6,
            "top_p": 0.95,
            "stop": ["\n"],
        },
    )


def _prepare_folder(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not (folder / MARK).exists():
            raise OutputError(f"{folder} holds files that the demo did not write; choose another --output")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()


def _write_inputs(folder: Path) -> None:
    """Write the sample as Parquet; correct labels are in the column `gold`, as `label` is an output."""
    folder.mkdir()
    news = [{GOLD if name == LABEL else name: value for name, value in row.items()} for row in _lines("news.jsonl")]
    for name, rows in (("news", news), ("prompts", _lines("prompts.jsonl"))):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines() if line]


def _read_rows(folder: Path) -> Rows:
    return [row for path in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]


def _accuracy(rows: Rows) -> dict[str, float]:
    """Return the share of correct labels for each language."""
    total = Counter(row["language"] for row in rows)
    right = Counter(row["language"] for row in rows if row[LABEL] == row[GOLD])
    return {LANGUAGES.get(code, code): right[code] / count for code, count in total.items()}


def _figures(accuracy: dict[str, float], manifest: dict[str, Any]) -> str:
    shares = ", ".join(f"{share:.0%} in {language}" for language, share in accuracy.items())
    rows, seconds = manifest["rows"], manifest["seconds"]
    speed = f"{rows / seconds:,.1f} rows/s" if seconds else "0 s"
    return f"Accuracy: {shares}. {rows} rows in {clock_text(seconds)} ({speed}, including model start).\n"


def _label_table(rows: Rows) -> str:
    """Return a table of a dozen rows with both languages and every label among them."""
    lines = [f"{'text':<44}  {'gold':<10} {'label':<10} confidence"]
    for row in sorted(rows, key=_round_robin())[:NUM_SHOWN]:
        mark = "✓" if row[LABEL] == row[GOLD] else "✗"
        text = f"{_shortened(row['text'], 44):<44}"
        lines.append(f"{text}  {row[GOLD]:<10} {row[LABEL] or '':<10} {row[CONFIDENCE] or 0:>10.2f} {mark}")
    return "\n".join(lines) + "\n"


def _round_robin() -> Callable[[dict[str, Any]], int]:
    """Return a sorting key that takes one row of each language and label, then a second one of each."""
    seen: Counter[tuple[str, str]] = Counter()

    def turn(row: dict[str, Any]) -> int:
        seen[row["language"], row[GOLD]] += 1
        return seen[row["language"], row[GOLD]]

    return turn


def _completions(rows: Rows) -> str:
    """Return what the model wrote, by kind, each behind its prompt."""
    shown = []
    for kind, heading in KINDS.items():
        written = [_written(row) for row in rows if row["kind"] == kind]
        shown.append("\n".join([f"{heading}:", *written]) + "\n")
    return "\n".join(shown)


def _written(row: dict[str, Any]) -> str:
    """Return a prompt and its completion, without the part of the completion that exceeds the space."""
    *lines, last = row[PROMPT].split("\n")
    arrow = "" if row["kind"] == "json" else "→ "
    joint = f"{last} {arrow}{(row[COMPLETION] or '').strip()}".strip()
    return "\n".join(f"  {line}" for line in (*lines, _shortened(joint, WIDTH)))


def _what_next(folder: Path) -> str:
    return (
        f"Output:  {folder}/labels and {folder}/completions (Parquet), each with a report in _tirazh/report.html.\n"
        f"Next:    tirazh verify {folder}/labels\n"
        "         tirazh classify --input 'news/*.parquet' --output labelled --labels economics,sport\n"
        "The embedded model is small and only shows that everything works; name your own with --model."
    )


def _shortened(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"
