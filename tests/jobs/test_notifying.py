"""Somebody is told about the end of a run: one message to a real server, whatever ends the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.pipeline.fakes import DEADLY, SLOW
from tests.receivers import Receiver, receiver
from tests.system.command import end, part_files, wait_until
from tirazh.jobs import notifying
from tirazh.jobs.cli import main

SECRET = "a-very-secret-part-of-an-address"


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@pytest.fixture
def job(tmp_path: Path) -> Any:
    """`job(prompts, lengths, **settings)` writes an input and a job file, and returns the path of the job file."""

    def write(prompts: list[str | None], lengths: list[int], **settings: Any) -> Path:
        pq.write_table(pa.table({"prompt": prompts, "max_new_tokens": lengths}), tmp_path / "in.parquet")
        values = {"kind": "generate", "input": str(tmp_path / "in.parquet"), "output": str(tmp_path / "out")}
        values |= {"part_rows": 5, "dtype": "float32", "notify": {"url": "env:HOOK"}} | settings
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    return write


def start(*arguments: object, hook: Receiver) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.jobs.fake_engine_command", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "HOOK": f"{hook.url}/{SECRET}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_to_end(*arguments: object, hook: Receiver) -> tuple[int, str]:
    """Return the exit code and what was printed."""
    process = start(*arguments, hook=hook)
    out, err = process.communicate(timeout=280)
    return process.returncode, out + err


def only_message(hook: Receiver) -> dict[str, Any]:
    assert len(hook.posted) == 1, hook.posted
    path, body = hook.posted[0]
    assert path == f"/{SECRET}"
    return dict(body)


def assert_secret_is_nowhere(output: Path, printed: str) -> None:
    assert SECRET not in printed
    for path in output.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


pytestmark = pytest.mark.ray
slow = pytest.mark.slow


@slow
def test_a_success_is_told_once_with_its_rows_and_its_page(job: Any, hook: Receiver, tmp_path: Path) -> None:
    code, printed = run_to_end("run", job(["новость"] * 10, [3] * 10), hook=hook)
    assert code == 0, printed
    told = only_message(hook)
    assert told.items() >= {"outcome": "success", "exit_code": 0, "kind": "generate", "rows": 10, "errors": 0}.items()
    assert told["sentence"] == "10 rows are written"
    assert told["output"] == str(tmp_path / "out")
    assert Path(told["report"]).is_file()
    assert told["begin"] <= told["end"]
    assert_secret_is_nowhere(tmp_path / "out", printed)
    # The same command again has nothing to do, which is no change.
    (tmp_path / "out/_tirazh/runs.jsonl").write_text('{"outcome": "success"}\n')
    code, printed = run_to_end("run", job(["новость"] * 10, [3] * 10), "--notify-on", "change", hook=hook)
    assert code == 0, printed
    assert len(hook.posted) == 1


@slow
def test_too_many_errors_are_told_once_with_the_rows_that_are_written(job: Any, hook: Receiver, tmp_path: Path) -> None:
    prompts = [None if index % 3 == 0 else "новость" for index in range(60)]
    code, printed = run_to_end("run", job(prompts, [3] * 60, max_error_rate=0.1), hook=hook)
    assert code == 1, printed
    told = only_message(hook)
    assert (told["outcome"], told["exit_code"], told["rows_total"]) == ("failure", 1, 60)
    assert "rows have errors, more than --max-error-rate 0.1" in told["sentence"]
    assert f"tirazh: {told['sentence']}" in printed.splitlines()
    written = sum(pq.read_metadata(path).num_rows for path in (tmp_path / "out").glob("part-*.parquet"))
    assert 0 < told["rows"] <= written
    assert told["errors"] > 6
    assert Path(told["report"]).is_file()
    assert_secret_is_nowhere(tmp_path / "out", printed)


@slow
def test_a_part_that_kills_three_replicas_is_told_once(job: Any, hook: Receiver, tmp_path: Path) -> None:
    code, printed = run_to_end("run", job(["новость"] * 10, [3] * 9 + [DEADLY], model=_model(tmp_path)), hook=hook)
    assert code == 1, printed
    told = only_message(hook)
    assert "killed 3 replicas and was skipped" in told["sentence"]
    assert (told["rows"], told["rows_total"], told["exit_code"]) == (5, 10, 1)
    assert_secret_is_nowhere(tmp_path / "out", printed)


def _model(tmp_path: Path) -> str:
    import shutil

    from tirazh.model.checkpoints.directory import EMBEDDED_DIR

    return str(shutil.copytree(EMBEDDED_DIR, tmp_path / "model"))


@slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_is_told_once(job: Any, hook: Receiver, tmp_path: Path, number: int, code: int) -> None:
    process = start("run", job(["новость"] * 400, [SLOW] * 400), hook=hook)
    wait_until(lambda: len(part_files(tmp_path / "out")) > 3, timeout_s=200, what="some parts")
    out, err = end(process, number=number)
    assert process.returncode == code, err
    told = only_message(hook)
    assert (told["outcome"], told["exit_code"], told["rows_total"]) == ("interrupted", code, 400)
    assert told["rows"] > 0
    assert told["sentence"].startswith("interrupted")
    assert_secret_is_nowhere(tmp_path / "out", out + err)


def test_a_wrong_request_is_told_once(
    job: Any, hook: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOOK", f"{hook.url}/{SECRET}")
    path = job(["новость"], [3], input=str(tmp_path / "missing.parquet"))
    assert main(["run", str(path)]) == 2
    told = only_message(hook)
    assert (told["outcome"], told["exit_code"], told["rows"]) == ("failure", 2, None)
    assert "missing.parquet does not exist" in told["sentence"]
    assert told["output"] == str(tmp_path / "out")
    assert main(["run", str(job(["новость"], [3], slot=3))]) == 2  # a typing error in the job file
    assert "slot" in hook.bodies[1]["sentence"]
    assert SECRET not in capsys.readouterr().err


def test_a_plan_or_a_wrong_section_tells_nobody(
    job: Any, hook: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOOK", hook.url)
    assert main(["run", str(job(["новость"], [3])), "--dry-run", "-q"]) == 0
    assert main(["run", str(job(["новость"], [3], notify={"url": "env:HOOK", "onn": ["failure"]}))]) == 2
    assert "job.yaml line" in (said := capsys.readouterr().err)
    assert "notify has no key 'onn'; did you mean on?" in said
    assert hook.posted == []


def test_flags_replace_the_receivers_of_the_file(
    job: Any, hook: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with receiver() as other:
        monkeypatch.setenv("HOOK", hook.url)
        monkeypatch.setenv("OTHER", other.url)
        path = job(["новость"], [3], input=str(tmp_path / "missing.parquet"))
        assert main(["generate", "--config", str(path), "--notify-url", "env:OTHER"]) == 2
        assert main(["generate", "--config", str(path), "--notify-url", "env:OTHER", "--notify-on", "success"]) == 2
        assert (len(hook.posted), len(other.posted)) == (0, 1)
        assert main(["generate", "--config", str(path), "--notify-on", "success"]) == 2
        assert hook.posted == []


def test_a_receiver_that_does_not_take_the_message_is_a_warning_and_changes_no_exit_code(
    job: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with receiver(status=500) as refusing:
        monkeypatch.setenv("HOOK", f"{refusing.url}/{SECRET}")
        assert main(["run", str(job(["новость"], [3], input=str(tmp_path / "missing.parquet")))]) == 2
        assert len(refusing.posted) == 1
    *_, warning = capsys.readouterr().err.splitlines()
    assert warning == "tirazh: warning: notify: the receiver was not told: it answered with the HTTP status 500"


def test_an_address_among_the_arguments_moves_to_the_environment(hook: Receiver, tmp_path: Path) -> None:
    """Other users of the machine see the arguments of a process, and Ray stores those of a driver."""
    program = (
        "import psutil, tirazh.jobs.cli as c, sys; c.main = lambda: print(psutil.Process().cmdline()) or 0; c.run()"
    )
    for given in ([f"--notify-url={hook.url}/{SECRET}"], ["--notify-url", f"{hook.url}/{SECRET}"]):
        command = [sys.executable, "-c", program, "generate", *given, "--limit", "1"]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True)
        assert SECRET not in done.stdout
        assert "'--notify-url=env:TIRAZH_NOTIFY_ADDRESS_SECRET', '--limit', '1'" in done.stdout


FIGURES = {"rows_safe": 120, "rows_total": 400, "errors": 3}


def follow_to_end(hook: Receiver, *, status: str, driver_exit_code: int | None, exit_code: int) -> None:
    """What `submit --follow` does for a job whose driver has ended."""
    notifying.forget()
    section = {"url": "env:HOOK"}
    notifying.announce_submission(section, kind="generate", output="s3://out/23")
    info = {"id": "tirazh-23-abc", "status": status, "driver_exit_code": driver_exit_code}
    notifying.driver_ended(info, FIGURES)
    notifying.end(exit_code)


def test_a_follower_tells_that_the_driver_was_killed(hook: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", f"{hook.url}/{SECRET}")
    follow_to_end(hook, status="FAILED", driver_exit_code=-9, exit_code=1)
    told = only_message(hook)
    assert told["sentence"].startswith("the driver of tirazh-23-abc was killed by signal 9")
    assert (told["rows"], told["rows_total"], told["errors"], told["exit_code"]) == (120, 400, 3, 1)
    assert told["output"] == "s3://out/23"


@pytest.mark.parametrize(
    ("status", "driver_exit_code", "exit_code"),
    [("SUCCEEDED", 0, 0), ("FAILED", 1, 1), ("FAILED", 2, 2), ("STOPPED", None, 1), ("STOPPED", 143, 1)],
)
def test_a_follower_is_silent_about_what_the_driver_told(
    hook: Receiver, monkeypatch: pytest.MonkeyPatch, status: str, driver_exit_code: int | None, exit_code: int
) -> None:
    monkeypatch.setenv("HOOK", hook.url)
    follow_to_end(hook, status=status, driver_exit_code=driver_exit_code, exit_code=exit_code)
    assert hook.posted == []


def test_a_job_that_cannot_be_submitted_is_told_once(
    job: Any, hook: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOOK", hook.url)
    assert main(["submit", str(job(["новость"], [3])), "--address", "http://127.0.0.1:9", "-q"]) != 0
    (told,) = hook.bodies
    assert f"tirazh: {told['sentence']}" in capsys.readouterr().err
