"""What libraries write to stderr while a job runs goes to the job's log, not to the terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tirazh.jobs.library_output import log_directory, redirect_library_output

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = """
import os, sys
from tirazh.jobs.library_output import redirect_library_output
with redirect_library_output(sys.argv[1]) as stream:
    os.write(2, b"[C++] core_worker.cc\\n")
    print("a traceback", file=sys.stderr)
    print("10 of 20 rows", file=stream, flush=True)
print("the end", file=sys.stderr)
"""


def run(output: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(output)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return done.stderr


def test_library_output_goes_to_the_log_of_the_job(tmp_path: Path) -> None:
    (tmp_path / "_tirazh").mkdir()
    assert run(tmp_path) == "10 of 20 rows\nthe end\n"
    (log,) = (tmp_path / "_tirazh/logs").iterdir()
    assert log.read_text() == "[C++] core_worker.cc\na traceback\n"


def test_a_log_that_cannot_be_written_does_not_hide_the_error(tmp_path: Path) -> None:
    (tmp_path / "_tirazh").mkdir()
    (tmp_path / "_tirazh/logs").write_text("no directory")
    assert run(tmp_path) == "10 of 20 rows\nthe end\n"


def test_library_output_creates_no_directory_for_a_job_that_was_not_started(tmp_path: Path) -> None:
    assert run(tmp_path / "out") == "10 of 20 rows\nthe end\n"
    assert list(tmp_path.iterdir()) == []
    assert log_directory("s3://bucket/out") is None


def test_a_replaced_stderr_is_not_redirected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    before = os.fstat(2)
    with redirect_library_output("out") as stream:
        assert stream is sys.stderr
        assert os.fstat(2).st_ino == before.st_ino
