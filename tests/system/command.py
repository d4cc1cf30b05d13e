"""Runs the command line as a process of its own, as users and schedulers do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow.parquet as pq

from tests.conftest import REPOSITORY


def start_tirazh(*arguments: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start `tirazh ARGUMENTS…` in a session of its own, so that a signal reaches only the intended process."""
    return subprocess.Popen(
        [sys.executable, "-m", "tirazh.jobs.cli", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_tirazh(
    *arguments: object, env: Mapping[str, str] | None = None, timeout_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Run `tirazh ARGUMENTS…` to its end."""
    process = start_tirazh(*arguments, env=env)
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        end(process)
        raise
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def end(process: subprocess.Popen[str], *, number: int = signal.SIGKILL, timeout_s: float = 60.0) -> tuple[str, str]:
    """Send a signal to the driver alone and wait for its end. Returns its stdout and stderr."""
    process.send_signal(number)
    return process.communicate(timeout=timeout_s)


def wait_until(is_true: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Poll until true. Raises AssertionError that names `what` after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s:.0f} s"
        time.sleep(0.02)


def part_files(output: Path) -> dict[str, tuple[int, int]]:
    """Return (modification time in ns, inode) of every part file by name; an unchanged file keeps both."""
    states = {path.name: path.stat() for path in sorted(output.glob("part-*.parquet"))}
    return {name: (state.st_mtime_ns, state.st_ino) for name, state in states.items()}


def read_rows(output: Path) -> list[dict[str, object]]:
    """Read every output row, in the order of the parts."""
    return [row for path in sorted(output.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]


def assert_one_sentence(done: subprocess.CompletedProcess[str] | tuple[int, str], *, exit_code: int, says: str) -> None:
    """Assert the exit code and one line on stderr that contains `says`, without a traceback."""
    code, err = done if isinstance(done, tuple) else (done.returncode, done.stderr)
    assert code == exit_code, err
    assert "Traceback" not in err
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("tirazh: ")
    assert says in lines[0], err
