"""The command `tirazh evaluate` and the function `tirazh.evaluate`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import tirazh
from tests.pipeline.gold.outputs import LABELS, answers, random_chances, write_output
from tirazh.jobs.cli import main

GOLD = [LABELS[each] for each in np.random.default_rng(1).integers(0, 3, 30)]


@pytest.fixture
def output(tmp_path: Path) -> str:
    return write_output(tmp_path / "out", answers(random_chances(30)).append_column("gold", pa.array(GOLD)))


@pytest.fixture
def gold_file(tmp_path: Path) -> str:
    path = tmp_path / "gold.csv"
    path.write_text("id,topic\n" + "".join(f"{row},{label}\n" for row, label in enumerate(GOLD)), encoding="utf-8")
    return str(path)


def test_the_command_prints_tables_and_names_the_report(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", output, "--gold-column", "gold"]) == 0
    printed = capsys.readouterr().out
    assert "30 of 30 rows evaluated" in printed
    assert printed.splitlines()[-1] == f"report  {output}/_tirazh/report.html"


def test_json_is_what_is_written_and_what_the_function_returns(
    output: str, gold_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", output, "--gold", gold_file, "--key", "id", "--gold-label", "topic", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((Path(output) / "_tirazh/evaluation.json").read_text(encoding="utf-8"))
    found = tirazh.evaluate(Path(output), gold=gold_file, key="id", gold_label="topic", against=Path(output))
    assert {name: value for name, value in found.items() if name != "against"} == printed
    assert (found.rows, found.accuracy, found["against"]["changed"]) == (30, printed["accuracy"], 0)
    assert found.intervals["accuracy"] == tuple(printed["intervals"]["accuracy"])
    assert found.classes[0]["label"] == "economics"
    assert repr(found).startswith("Evaluation(rows=30, accuracy=")


def test_no_write_leaves_the_output_as_it_is(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", output, "--gold-column", "gold", "--no-write"]) == 0
    assert "report" not in capsys.readouterr().out
    assert not (Path(output) / "_tirazh/evaluation.json").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "has no gold labels: its job had no --gold-column; give --gold FILE --key COLUMN, or --gold-column"),
        (["--gold", "gold.csv"], "--gold needs --key"),
        (["--gold", "gold.csv", "--key", "id", "--gold-column", "gold"], "are two sources of gold labels"),
        (["--gold-column", "golt"], "has no column 'golt'; did you mean gold?"),
        (["--gold-column", "gold", "--question", "tone"], "the job has no question 'tone'"),
        (["--gold-column", "gold", "--seed", "-1"], "--seed must be at least 0, not -1"),
        (["--gold-colum", "gold"], "evaluate has no flag --gold-colum; did you mean --gold-column?"),
        (["--gold", "https://a.blob;AccountKey=hunter2"], "--gold must hold no password, key or signature"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    flags: list[str], says: str, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", output, *flags]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_the_evaluation_needs_neither_ray_nor_torch(output: str) -> None:
    code = (
        f"import sys, tirazh; tirazh.evaluate({output!r}, gold_column='gold'); "
        "print([name for name in ('ray', 'torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
