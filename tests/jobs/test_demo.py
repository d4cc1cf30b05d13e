"""`tirazh demo`: its files, the outputs that it may replace, and a real run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tirazh.errors import OutputError
from tirazh.jobs.demo import DATA, GOLD, KINDS, MARK, _completions, _label_table, _lines, _prepare_folder, _write_inputs
from tirazh.pipeline.schema import COMPLETION, CONFIDENCE, LABEL

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_demo_writes_its_sample_as_parquet_with_the_gold_labels_in_another_column(tmp_path: Path) -> None:
    _write_inputs(tmp_path / "input")
    news = pq.read_table(tmp_path / "input/news.parquet")
    assert GOLD in news.column_names
    assert LABEL not in news.column_names
    assert news.num_rows == 60
    kinds = Counter(pq.read_table(tmp_path / "input/prompts.parquet")["kind"].to_pylist())
    assert kinds == {"continuation": 5, "dialogue": 1, "recommendation": 1, "json": 3}


def test_the_demo_shows_every_completion_behind_the_last_line_of_its_prompt() -> None:
    written = {"continuation": " it rains.", "dialogue": " Yes.", "recommendation": " The Sea.", "json": ' {"a": 1}'}
    rows = [row | {COMPLETION: written[row["kind"]]} for row in _lines("prompts.jsonl")]
    shown = _completions(rows).splitlines()
    assert "  В субботу в Казани → it rains." in shown
    assert "  assistant: → Yes." in shown
    assert shown.count('  JSON: {"a": 1}') == 2
    assert '  {"a": 1}' in shown
    assert [line for line in shown if line and not line.startswith(" ")] == [f"{text}:" for text in KINDS.values()]


def test_the_table_of_the_demo_shows_both_languages_and_every_label() -> None:
    rows = [row | {GOLD: row[LABEL], CONFIDENCE: 0.5} for row in _lines("news.jsonl")]
    table = _label_table(rows)
    assert len(table.splitlines()) == 1 + 12
    assert all(row[LABEL] in table for row in rows)
    assert max(map(len, table.splitlines())) <= 100


def test_the_demo_replaces_its_own_output_and_refuses_any_other(tmp_path: Path) -> None:
    folder = tmp_path / "demo-output"
    _prepare_folder(folder)
    (folder / "labels").mkdir()
    _prepare_folder(folder)
    assert [path.name for path in folder.iterdir()] == [MARK]
    (tmp_path / "mine.txt").touch()
    with pytest.raises(OutputError, match="holds files that the demo did not write"):
        _prepare_folder(tmp_path)
    assert (tmp_path / "mine.txt").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_the_demo_classifies_and_generates(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tirazh.jobs.cli", "demo", "--output", str(tmp_path / "demo")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    prompts = [json.loads(line)["prompt"] for line in (DATA / "prompts.jsonl").read_text().splitlines()]
    assert all(line in done.stdout for prompt in prompts for line in prompt.split("\n"))
    assert "✓" in done.stdout
    assert (tmp_path / "demo/labels/_SUCCESS").exists()
    assert (tmp_path / "demo/completions/_SUCCESS").exists()
