"""A small job through the command line and through Python: results, JSON, a second run, verify, report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.system.tiny_model import write_tiny_model
from tirazh import classify
from tirazh.jobs.cli import main

pytestmark = pytest.mark.ray


@pytest.fixture
def job(tmp_path: Path) -> dict[str, object]:
    return make_job(tmp_path)


@pytest.fixture(scope="module")
def made(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], dict[str, Any]]:
    """A job that was run from Python, and its manifest."""
    job = make_job(tmp_path_factory.mktemp("made"))
    return job, classify(**job, labels=["a", "b"], gold_column="gold")


def make_job(folder: Path) -> dict[str, object]:
    """Settings of a small job, with the same names in Python, YAML and flags."""
    rows = {"text": ["Вчера", "Сегодня", "Завтра"], "gold": ["a", "b", "a"]}
    pq.write_table(pa.table(rows), folder / "in.parquet")
    return {
        "input": str(folder / "in.parquet"),
        "output": str(folder / "out"),
        "model": write_tiny_model(folder / "model"),
        "dtype": "float32",
    }


def flags(job: dict[str, object]) -> list[str]:
    return [text for name, value in job.items() for text in (f"--{name}", str(value))]


def test_python_and_the_command_line_run_the_same_job(
    made: tuple[dict[str, object], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    job, manifest = made
    assert (manifest["rows"], manifest["errors"], manifest["gold_rows"]) == (3, 0, 3)
    assert manifest["spec"]["labels"] == {"a": "a", "b": "b"}

    assert main(["classify", *flags(job), "--labels", "a,b", "--gold-column", "gold", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["fingerprint"] == manifest["fingerprint"]
    assert "parts" not in again

    assert main(["verify", str(job["output"])]) == 0
    assert capsys.readouterr().out.startswith("OK: 3/3 rows, 1/1 parts verified")
    assert main(["report", str(job["output"])]) == 0
    assert "report.html" in capsys.readouterr().out


def test_verifying_a_damaged_output_exits_with_1(
    made: tuple[dict[str, object], dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(str(made[0]["output"]), tmp_path / "out")
    (part,) = (tmp_path / "out").glob("part-*.parquet")
    part.write_bytes(part.read_bytes()[:-8])
    assert main(["verify", str(tmp_path / "out"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["is_whole"]
    assert part.name in found["problems"][0]


def test_an_internal_error_is_one_sentence_and_its_traceback_is_in_the_logs_of_the_job(
    job: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object, **settings: object) -> None:
        (tmp_path / "out/_tirazh").mkdir(parents=True)
        raise ZeroDivisionError("a bug\nof two lines")

    monkeypatch.setattr("tirazh.pipeline.build.run_job", broken)
    assert main(["generate", *flags(job), "--prompt-column", "text"]) == 1
    log = tmp_path / "out/_tirazh/logs/internal-error.log"
    assert capsys.readouterr().err == f"tirazh: internal error: ZeroDivisionError: a bug; the traceback is in {log}\n"
    assert "in broken" in log.read_text()


def test_an_internal_error_is_reported_when_its_traceback_cannot_be_written(
    job: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object, **settings: object) -> None:
        (tmp_path / "out/_tirazh/logs/internal-error.log").mkdir(parents=True)
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("tirazh.pipeline.build.run_job", broken)
    assert main(["generate", *flags(job), "--prompt-column", "text"]) == 1
    sentence = "internal error: ZeroDivisionError: a bug; the traceback could not be written: Is a directory"
    assert capsys.readouterr().err == f"tirazh: {sentence}\n"


def test_an_interrupt_says_how_to_resume(
    job: dict[str, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tirazh.pipeline.build.run_job", interrupted)
    assert main(["generate", *flags(job), "--prompt-column", "text"]) == 130
    assert capsys.readouterr().err.startswith("tirazh: interrupted before the first part was written")
