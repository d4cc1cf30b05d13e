"""Wrong requests to finetune: exit code 2, one sentence that names the problem and the solution, nothing written."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.system.tiny_model import write_tiny_model
from tirazh.jobs.cli import main

Case = tuple[list[str], str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good and bad inputs, and a model."""
    folder = tmp_path_factory.mktemp("requests")
    texts = {"text": ["новость"] * 4, "prompt": ["Вчера"] * 4, "label": ["sport", "economics"] * 2, "n": range(4)}
    pq.write_table(pa.table(texts), folder / "good.parquet")
    pq.write_table(pa.table({"other": ["x"]}), folder / "other.parquet")
    (folder / "cut.parquet").write_bytes((folder / "good.parquet").read_bytes()[:-20])
    write_tiny_model(folder / "model")
    (folder / "full").mkdir()
    (folder / "full/notes.txt").write_text("mine")
    (folder / "job.yaml").write_text("kind: finetune\ninput: good.parquet\noutput: out\nlearning_rat: 1\n")
    (folder / "rows.yaml").write_text("kind: generate\ninput: good.parquet\noutput: out\n")
    return folder


CASES: dict[str, Case] = {
    "a flag that is nearly one": (["--learning-rat", "1"], "has no flag --learning-rat; did you mean --learning-rate?"),
    "a flag of another command": (["--max-new-tokens", "5"], "--max-new-tokens is a flag of `tirazh generate`"),
    "a flag of the original": (["--train_data_file", "x.txt"], "--train_data_file; use --input, with Parquet"),
    "a column that is not there": (["--text-column", "txt"], "no column 'txt' (--text-column); did you mean text?"),
    "a column of numbers": (["--text-column", "n"], "column 'n' (--text-column) must contain strings, not int64"),
    "a prompt column that is not there": (
        ["--prompt-column", "promt", "--completion-column", "label"],
        "no column 'promt' (--prompt-column); did you mean prompt?",
    ),
    "a completion column that is not there": (
        ["--prompt-column", "prompt", "--completion-column", "labels"],
        "no column 'labels' (--completion-column); did you mean label?",
    ),
    "a template with a column that is not there": (
        ["--template", "{{ txt }}:", "--completion-column", "label"],
        "--template uses 'txt', which is not a column of the input; did you mean text?",
    ),
    "prompts without completions": (["--prompt-column", "prompt"], "--prompt-column needs --completion-column"),
    "completions of nothing": (["--completion-column", "label"], "needs the prompts: give --prompt-column"),
    "two forms of prompt": (
        ["--prompt-column", "prompt", "--template", "{{ text }}", "--completion-column", "label"],
        "give --prompt-column or --template, not both",
    ),
    "labels for nothing": (["--labels", "a,b"], "--labels needs --completion-column"),
    "labels to score without labels": (["--label-input", "good.parquet"], "--label-input needs --labels"),
    "a single label": (["--labels", "a", "--completion-column", "label"], "at least two labels"),
    "an evaluation of another form": (["--eval-input", "other.parquet"], "no column 'text' (--text-column)"),
    "a file that was cut off": (["--input", "cut.parquet"], "cut.parquet"),
    "an input that is not there": (["--input", "god.parquet"], "did you mean"),
    "a model that is none": (["--model", "full"], "no checkpoint in full"),
    "a sequence longer than the model": (["--seq-length", "4096"], "--seq-length 4096 is more than the model's 512"),
    "a sequence of one token": (["--seq-length", "1"], "--seq-length must be at least 2"),
    "ZeRO 4": (["--zero-stage", "4"], "--zero-stage must be at most 3"),
    "everything offloaded without ZeRO 3": (["--offload", "all"], "--offload all needs --zero-stage 3"),
    "the optimizer offloaded without ZeRO": (["--offload", "optimizer"], "--offload optimizer needs --zero-stage"),
    "offloaded nowhere": (["--offload", "optimiser"], "did you mean optimizer?"),
    "a learning rate of 0": (["--learning-rate", "0"], "--learning-rate must be above 0"),
    "a learning rate that is no number": (["--learning-rate", "fast"], "--learning-rate must be a number"),
    "a floor above the rate": (["--min-learning-rate", "1"], "between 0 and --learning-rate"),
    "no epochs": (["--epochs", "0"], "--epochs must be above 0"),
    "no workers": (["--workers", "0"], "--workers must be at least 1"),
    "a layer that no model has": (["--lora-rank", "2", "--lora-targets", "q_prj"], "did you mean q_proj?"),
    "a store that does not exist": (["--output", "s4://bucket/model"], "s4"),
    "an output with other files": (["--output", "full"], "notes.txt"),
    "a job file with an unknown key": (["--config", "job.yaml"], "line 4: finetune has no setting 'learning_rat'"),
    "a job file of another kind": (["--config", "rows.yaml"], "run `tirazh generate --config rows.yaml`"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_request_prints_one_sentence_and_writes_nothing(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    flags, says = CASES[name]
    given = {"--input": "good.parquet", "--output": "out", "--model": "model"}
    others = [text for flag, value in given.items() if flag not in flags for text in (flag, value)]
    code = main(["finetune", *others, *flags])
    shown = capsys.readouterr()
    assert (code, shown.out) == (2, "")
    assert len(shown.err.splitlines()) == 1
    assert shown.err.startswith("tirazh: ")
    assert says in shown.err
    assert sorted(folder.rglob("*")) == before


def test_a_dry_run_of_finetune_shows_the_plan_and_writes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    flags = ["--input", "good.parquet", "--output", "out", "--model", "model", "--dry-run"]
    assert main(["finetune", *flags]) == 0
    shown = capsys.readouterr().out
    assert ["rows", "4"] in [line.split() for line in shown.splitlines()]
    assert not (folder / "out").exists()


def test_plan_and_submit_take_a_job_file_of_kind_finetune(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    for command in (["plan", "job.yaml"], ["submit", "job.yaml"]):
        assert main(command) == 2
        assert "job.yaml line 4: finetune has no setting 'learning_rat'; did you mean" in capsys.readouterr().err
    (folder / "good.yaml").write_text("kind: finetune\ninput: good.parquet\noutput: out\nmodel: model\n")
    assert main(["plan", "good.yaml"]) == 0
    said = capsys.readouterr().out
    assert "steps           1 of 32 sequences" in said
    assert "worker memory   " in said
    assert main(["preview", "good.yaml"]) == 2
    assert "run `tirazh finetune --config good.yaml`" in capsys.readouterr().err
