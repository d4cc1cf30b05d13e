"""What libraries write to stderr while a job runs goes to the job's log, not to the terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.seaweedfs import SECRET_KEY, SeaweedServer
from tirazh.jobs.library_output import log_directory, redirect_library_output
from tirazh.pipeline.storage.filesystem import Storage

PROGRAM = """
import os, sys
from tirazh.jobs.library_output import redirect_library_output
with redirect_library_output(sys.argv[1]) as stream:
    os.write(2, b"[C++] core_worker.cc\\n")
    print("a traceback", file=sys.stderr)
    print("10 of 20 rows", file=stream, flush=True)
print("the end", file=sys.stderr)
"""

FAILING = """
import os, sys
from tirazh.errors import JobError, RequestError, StorageError
from tirazh.jobs.cli import _fail, _notes, one_sentence
from tirazh.jobs.library_output import redirect_library_output
output, endpoint_url, error = sys.argv[1], sys.argv[2] or None, sys.argv[3]
try:
    with redirect_library_output(output, endpoint_url=endpoint_url) as stream:
        os.write(2, b"[C++] core_worker.cc: the key is %s\\n" % os.environ["AWS_SECRET_ACCESS_KEY"].encode())
        os.write(2, b"one more line\\n" * int(sys.argv[4]))
        raise eval(error)
except Exception as error:
    print("; ".join((str(error), *_notes(error))), file=sys.stderr)
"""


def fail(
    output: str, *, endpoint_url: str = "", error: str = "JobError('it failed')", lines: int = 1, **env: str
) -> str:
    """Run a job that fails, and return what the terminal shows."""
    command = [sys.executable, "-c", FAILING, output, endpoint_url, error, str(lines)]
    environment = {"AWS_SECRET_ACCESS_KEY": SECRET_KEY, **os.environ, **env}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    return done.stderr


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


@pytest.mark.s3
def test_the_log_of_a_failed_job_is_uploaded_to_its_output_in_an_object_store(
    s3_server: SeaweedServer, tmp_path: Path
) -> None:
    output, storage = f"{s3_server.make_bucket('failed')}/out", Storage(s3_server.endpoint_url)
    storage.write(f"{output}/_tirazh/plan.json", b"{}")
    shown = fail(output, endpoint_url=s3_server.endpoint_url, TMPDIR=str(tmp_path))
    assert shown == "it failed\n"
    (name,) = storage.names(f"{output}/_tirazh/logs")
    log = storage.read(f"{output}/_tirazh/logs/{name}").decode()
    assert log.startswith("[C++] core_worker.cc: the key is [hidden]\n")
    assert "JobError: it failed" in log
    assert SECRET_KEY not in log
    assert list(tmp_path.iterdir()) == []


@pytest.mark.s3
def test_the_log_of_a_job_that_succeeded_is_not_uploaded(s3_server: SeaweedServer, tmp_path: Path) -> None:
    output, storage = f"{s3_server.make_bucket('succeeded')}/out", Storage(s3_server.endpoint_url)
    storage.write(f"{output}/_tirazh/plan.json", b"{}")
    assert run(Path(output)) == "10 of 20 rows\nthe end\n"
    assert storage.names(f"{output}/_tirazh/logs") == {}


def test_a_log_that_cannot_be_uploaded_stays_here_without_secrets_and_its_place_is_named(tmp_path: Path) -> None:
    """Nothing listens at this address."""
    shown = fail("s3://bucket/out", endpoint_url="http://127.0.0.1:9", TMPDIR=str(tmp_path))
    (log,) = tmp_path.iterdir()
    assert shown.startswith(f"it failed; the log with the traceback is in {log} (s3://bucket/out")
    assert "the storage did not respond" in shown
    text = log.read_text()
    assert "core_worker.cc: the key is [hidden]" in text
    assert "JobError: it failed" in text
    assert SECRET_KEY not in text


def test_the_log_of_a_job_that_failed_before_it_had_an_output_is_kept(tmp_path: Path) -> None:
    shown = fail(str(tmp_path / "out"), TMPDIR=str(tmp_path))
    (log,) = tmp_path.iterdir()
    assert shown == f"it failed; the log with the traceback is in {log} ({tmp_path}/out has no _tirazh)\n"


def test_a_wrong_request_leaves_no_log(tmp_path: Path) -> None:
    assert fail(str(tmp_path / "out"), error="RequestError('a typing mistake')", TMPDIR=str(tmp_path)) == (
        "a typing mistake\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_internal_error_names_the_log_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "_tirazh").mkdir()
    shown = fail(str(tmp_path), error="ZeroDivisionError('a bug')")
    (log,) = (tmp_path / "_tirazh/logs").iterdir()
    assert shown == f"a bug; the traceback is in {log}\n"
    assert "ZeroDivisionError: a bug" in log.read_text()


@pytest.mark.slow
def test_only_the_end_of_a_very_long_log_is_kept(tmp_path: Path) -> None:
    (tmp_path / "_tirazh").mkdir()
    assert fail(str(tmp_path), lines=1_500_000) == "it failed\n"
    (log,) = (tmp_path / "_tirazh/logs").iterdir()
    text = log.read_text()
    assert len(text) <= (16 << 20) + 100
    assert text.startswith("(")
    assert "bytes before this were left out)\none more line\n" in text[:100]
    assert text.endswith("JobError: it failed\n")


def test_a_replaced_stderr_is_not_redirected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    before = os.fstat(2)
    with redirect_library_output("out") as stream:
        assert stream is sys.stderr
        assert os.fstat(2).st_ino == before.st_ino
