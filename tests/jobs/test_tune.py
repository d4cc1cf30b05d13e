"""`tirazh tune` and `tirazh.tune`: the same search from the command line and from Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tirazh
from tests.system.tiny_model import write_tiny_model
from tirazh.jobs.cli import main
from tirazh.jobs.tuning.text import tune_text

SEARCH = "{template: [job], shots: [0, 1], scoring: [sum, mean], calibrate: [none, batch]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job file, and labelled rows."""
    folder = tmp_path_factory.mktemp("tune")
    model = write_tiny_model(folder / "model")
    rows = {"text": [f"News {number}" for number in range(80)], "label": ["sport", "world"] * 40}
    pq.write_table(pa.table(rows), folder / "gold.parquet")
    job = f"kind: classify\ninput: {folder}/gold.parquet\noutput: {folder}/out\nmodel: {model}\nlabels: sport,world\n"
    (folder / "job.yaml").write_text(job + "dtype: float32\ndevice: cpu\nthreads: 1\nslots: 8\n")
    return folder


def arguments(folder: Path, out: str, *more: str) -> list[str]:
    given = ["--gold", str(folder / "gold.parquet"), "--out", str(folder / out), "--search", SEARCH]
    return ["tune", str(folder / "job.yaml"), *given, *more]


def test_the_command_prints_the_trials_and_the_held_out_figures(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(folder, "shown.yaml")) == 0
    shown = capsys.readouterr()
    assert "rung 1 of 2: 2 prompt settings on 16 rows; 0 of 1,000,000 tokens used" in shown.err
    header, *lines = shown.out.splitlines()
    assert header.split()[:6] == ["template", "shots", "scoring", "calibrate", "rows", "accuracy"]
    assert len([line for line in lines if line.startswith("job ")]) == 2
    assert "on 40 held-out rows, which no trial saw:" in lines
    assert lines[-1].endswith(f"run `tirazh run {folder}/shown.yaml`")


def test_json_is_the_table_and_python_returns_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(folder, "json.yaml", "--json")) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert printed == json.loads((folder / "json.tune.json").read_text(encoding="utf-8"))
    tuned = tirazh.tune(
        folder / "job.yaml", gold=folder / "gold.parquet", out=folder / "json.yaml", search=SEARCH, overwrite=True
    )
    assert tuned.to_dict() == printed
    assert tuned.job == str(folder / "json.yaml")
    assert tuned.winner["value"] == tuned.trials[0]["value"]
    assert set(tuned.held_out) >= {"winner", "baseline", "comparison"}


def test_a_wrong_request_is_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(folder, "wrong.yaml", "--gold-label", "lable")) == 2
    shown = capsys.readouterr().err.splitlines()[-1]
    assert shown == "tirazh: the --gold file has no column 'lable' (--gold-label); did you mean label?"
    assert main(["tune", str(folder / "job.yaml"), "--gold", "gold.parquet"]) == 2
    assert "tune needs --out" in capsys.readouterr().err


def test_the_text_names_what_was_not_tried() -> None:
    held_out = {"accuracy": 0.5, "macro_f1": 0.4, "log_loss": None, "ece": None, "intervals": {"accuracy": [0.4, 0.6]}}
    trial = {"template": "job", "shots": 4, "shot_selection": "nearest", "scoring": "sum", "calibrate": "none"}
    trial |= {"rung": 1, "rows": 30, "tokens": 5_000, "value": 0.5, "interval": [0.4, 0.6]}
    facts = {
        "metric": "accuracy",
        "trials": [trial],
        "tokens": {"used": 9_000, "budget": 10_000},
        "rows": {"held_out": 40},
        "not_tried": [{"template": "job", "shots": 16, "reason": "the examples are too long"}],
        "is_complete": False,
        "files": {"table": "best.tune.json", "job": "best.yaml"},
        "held_out": {
            "winner": held_out,
            "baseline": held_out,
            "comparison": {"difference": 0.0, "interval": [-0.1, 0.1], "p_value": 1.0},
            "ece_with_calibration": None,
        },
    }
    text = tune_text(facts | {"trials": [trial, trial | {"scoring": "mean"}]})
    assert "job       4 nearest  sum      none         30     0.500  0.400 to 0.600   5,000" in text
    assert "the best variant of 1 prompt settings; all 2 trials: best.tune.json" in text
    assert "1 prompt settings were not tried; the first: the examples are too long" in text
    assert "the token budget ended the search before all rows were used" in text
