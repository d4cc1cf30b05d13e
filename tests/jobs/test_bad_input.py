"""`python -m tirazh.jobs.cli` as users run it, over inputs that cannot work: one sentence, the right exit code, in
good time,
and nothing left in the output directory.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.system.tiny_model import write_tiny_model
from tirazh.jobs.cli import main
from tirazh.jobs.settings import build_spec
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import write_plan
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.storage.filesystem import Storage

REPOSITORY = Path(__file__).resolve().parents[2]
LABELS = ["--labels", "economics,sport"]
Case = tuple[list[str], str]


def tirazh(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in `cwd` with this checkout's packages."""
    command = [sys.executable, "-m", "tirazh.jobs.cli", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY), "HOME": str(cwd), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a good input and many bad ones."""
    write = pq.write_table
    rows = 5
    write(pa.table({"text": ["новость"] * rows, "prompt": ["Вчера"] * rows}), tmp_path / "good.parquet")
    write(pa.table({"text": list(range(rows))}), tmp_path / "numbers.parquet")
    write(pa.table({"text": pa.array([], pa.string())}), tmp_path / "no_rows.parquet")
    (tmp_path / "empty.parquet").touch()
    (tmp_path / "text.parquet").write_text("This is not a Parquet file.\n")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "good.parquet").read_bytes()[:-20])
    (tmp_path / "no_model").mkdir()
    write_tiny_model(tmp_path / "model")
    return tmp_path


CASES: dict[str, Case] = {
    "a column that is not there": (["--input", "good.parquet", "--text-column", "txt"], "'txt'"),
    "a column of numbers": (["--input", "numbers.parquet"], "'text'"),
    "a table without rows": (["--input", "no_rows.parquet"], "no rows"),
    "an empty file": (["--input", "empty.parquet"], "empty.parquet"),
    "a file that is no Parquet": (["--input", "text.parquet"], "text.parquet"),
    "a file that was cut off": (["--input", "cut.parquet"], "cut.parquet"),
    "a model directory that is none": (["--input", "good.parquet", "--model", "no_model"], "no_model"),
    "a gold column that is not there": (["--input", "good.parquet", "--gold-column", "gold"], "'gold'"),
    "a template that is none": (["--input", "good.parquet", "--template", "{{ text "], "--template"),
    "a glob that matches nothing": (["--input", "news-*.parquet"], "news-*.parquet"),
    "an unknown storage": (["--input", "ftq://host/x.parquet"], "ftq"),
    "examples that are not there": (["--input", "good.parquet", "--examples", "few.parquet"], "few.parquet"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_request_prints_one_sentence_and_writes_nothing(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first of them in a process of its own."""
    flags, says = CASES[name]
    before = sorted(folder.rglob("*"))
    arguments = ["classify", "--output", "out", "--model", "model", *LABELS, *flags]
    if name == next(iter(CASES)):
        done = tirazh(*arguments, cwd=folder)
    else:
        monkeypatch.chdir(folder)
        code = main(arguments)
        done = subprocess.CompletedProcess(arguments, code, *capfd.readouterr())
    assert_one_sentence(done, says, code=2)
    assert sorted(folder.rglob("*")) == before


def test_the_output_of_another_job_is_not_changed(folder: Path) -> None:
    other = build_spec(
        "classify",
        {"input": folder / "good.parquet", "output": folder / "out", "model": folder / "model", "labels": "a,b"},
    )
    write_plan(OutputFiles(Storage(), str(folder / "out")), plan_job(other))
    before = (folder / "out/_tirazh/plan.json").read_bytes()
    done = tirazh("classify", "--output", "out", "--model", "model", "--input", "good.parquet", *LABELS, cwd=folder)
    assert_one_sentence(done, "contains the output of another job", code=2)
    assert (folder / "out/_tirazh/plan.json").read_bytes() == before
    assert [path.name for path in (folder / "out").rglob("*") if path.is_file()] == ["plan.json"]


def test_the_address_of_a_storage_server_that_does_not_answer_is_in_the_message(folder: Path) -> None:
    done = tirazh(
        *("classify", "--input", "s3://bucket/x.parquet", "--output", "out", "--model", "model", *LABELS),
        *("--endpoint-url", "http://127.0.0.1:9"),
        cwd=folder,
    )
    assert done.returncode in (1, 2)
    assert_one_sentence(done, "s3://bucket", code=done.returncode)
    assert not (folder / "out").exists()


@pytest.mark.parametrize("command", ["verify", "report"])
def test_a_directory_that_is_no_output_of_a_job_is_refused(command: str, folder: Path) -> None:
    done = tirazh(command, "no_model", cwd=folder)
    assert_one_sentence(done, "no_model", code=2)
    assert list((folder / "no_model").iterdir()) == []


def assert_one_sentence(done: subprocess.CompletedProcess[str], says: str, *, code: int) -> None:
    """Assert the exit code, one line on stderr that contains `says`, and no output on stdout."""
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("tirazh: ")
    assert says in lines[0]
    assert "internal error" not in lines[0]
    assert done.returncode == code
