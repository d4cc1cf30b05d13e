"""The commands `tirazh calibrate` and `tirazh relabel`, and the functions of the same names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tirazh
from tests.pipeline.relabel.outputs import jobs_with_scores, rows_of, run, spec_of, write_news
from tirazh.jobs.cli import main
from tirazh.model.checkpoints.directory import resolve_model


@pytest.fixture
def model_dir() -> Path:
    return Path(resolve_model("embedded"))


@pytest.fixture
def output(tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The finished output of a job of 300 rows with the gold column `topic`."""
    jobs_with_scores(monkeypatch, write_news(tmp_path, 300))
    return run(spec_of(tmp_path, model_dir, gold_column="topic"))


def test_the_commands_print_figures_and_where_the_result_is(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, new = tmp_path / "c.json", tmp_path / "new"
    assert main(["calibrate", output, "--out", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "calibration of 3 labels, fitted on 299 rows" in printed
    assert "cross-validated log-loss: none" in printed
    assert "target error 0.01: not supported (the smallest target that it supports is" in printed
    assert printed.splitlines()[-1] == f"calibration  {file}"
    arguments = ["relabel", output, "--out", str(new), "--calibration", str(file), "--target-error", "0.3"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "of 299 rows abstain" in printed
    assert printed.splitlines()[-1] == f"output  {new}"
    assert main(["verify", str(new)]) == 0


def test_json_is_what_the_functions_return(output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", output, "--out", str(tmp_path / "c.json"), "--method", "vector", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    found = tirazh.calibrate(output, tmp_path / "c.json", gold_column="topic", method="vector")
    assert dict(found) == printed
    assert (found.method, found.rows, found.file) == ("vector", 299, str(tmp_path / "c.json"))
    assert found.after["ece"] < found.before["ece"]
    assert found.targets[2]["threshold"] is None
    assert main(["relabel", output, "--out", str(tmp_path / "a"), "--abstain-below", "0.7", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    manifest = tirazh.relabel(Path(output), tmp_path / "b", abstain_below=0.7)
    assert manifest["abstained"] == printed["abstained"] > 0
    assert rows_of(manifest.output).equals(rows_of(printed["output"]))
    assert 0.0 < tirazh.evaluate(manifest.output).coverage < 1.0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["calibrate", "OUT"], "--out"),
        (["calibrate", "OUT", "--out", "c.json", "--method", "magic"], "magic"),
        (["calibrate", "nowhere", "--out", "c.json"], "is not the output of a job"),
        (["calibrate", "OUT", "--out", "c.json", "--gold", "g.csv"], "--gold needs --key"),
        (["relabel", "OUT", "--out", "new"], "nothing would change"),
        (["relabel", "OUT", "--out", "new", "--target-error", "2"], "--target-error must be between 0 and 1"),
        (["relabel", "OUT", "--out", "new", "--calibration", "c.json"], "does not exist"),
        (["relabel", "OUT", "--out", "new", "--target-error", "0.0001"], "the smallest target that it supports is"),
    ],
)
def test_a_wrong_request_ends_with_one_sentence(
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([output if each == "OUT" else each for each in arguments]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "c.json").exists()


def test_neither_ray_nor_torch_is_imported(output: str, tmp_path: Path) -> None:
    code = (
        "import sys; from tirazh.jobs.cli import main; "
        f"main(['calibrate', {output!r}, '--out', {str(tmp_path / 'c.json')!r}]); "
        f"code = main(['relabel', {output!r}, '--out', {str(tmp_path / 'n')!r}, '--calibration', "
        f"{str(tmp_path / 'c.json')!r}]); print(code, [name for name in ('ray', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_one_of_several_questions_is_calibrated_and_relabelled(
    tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = write_news(tmp_path, 300)
    jobs_with_scores(monkeypatch, np.concatenate([scores, scores[:, :2]], axis=1))
    questions: Any = {
        "topic_of": {
            "labels": {label: label for label in ("economics", "sport", "culture")},
            "suffix": " Topic:",
            "abstain_below": 0.5,
        },
        "tone": {"labels": {"good": "good", "bad": "bad"}, "suffix": " Tone:", "abstain_below": 0.9},
    }
    source = run(spec_of(tmp_path, model_dir, labels=None, questions=questions))
    file, new = str(tmp_path / "c.json"), tmp_path / "new"
    assert main(["calibrate", source, "--gold-column", "topic", "--out", file]) == 2
    assert "choose one with --question, of topic_of, tone" in capsys.readouterr().err
    assert main(["calibrate", source, "--gold-column", "topic", "--out", file, "--question", "topic_of"]) == 0
    arguments = ["--question", "topic_of", "--calibration", file, "--target-error", "0.3"]
    assert main(["relabel", source, "--out", str(new), *arguments]) == 0
    before, after = rows_of(source), rows_of(str(new))
    changed = [name for name in before.column_names if not before.column(name).equals(after.column(name))]
    assert changed == ["topic_of", "topic_of_confidence", "topic_of_probabilities"]
    assert tirazh.verify(str(new)).is_whole
    assert main(["relabel", source, "--out", str(tmp_path / "all"), "--abstain-below", "0.7"]) == 0
    after = rows_of(str(tmp_path / "all"))
    changed = [name for name in before.column_names if not before.column(name).equals(after.column(name))]
    assert changed == ["topic_of", "tone"]
