"""The command without standard streams, on full disks and without readers: the job's exit code and nothing else."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tirazh.jobs.terminal.streams import tolerant_stream, write_error

CLOSED = ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"]


def shell(words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `tirazh` with redirections of the shell."""
    given = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
    command = f"exec {sys.executable} -m tirazh {words}"
    return subprocess.run(
        ["bash", "-c", command], cwd=cwd, env=given, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("closed", CLOSED)
def test_a_command_without_standard_streams_ends_with_its_exit_code(closed: str, tmp_path: Path) -> None:
    assert shell(f"--version {closed}", tmp_path).returncode == 0
    assert shell(f"verify nowhere {closed}", tmp_path).returncode == 2


def test_no_file_takes_the_place_of_a_missing_stream(tmp_path: Path) -> None:
    """Else what is printed would be written into that file."""
    code = (
        "import os, sys; from tirazh.jobs.terminal.streams import *; open_missing_streams(); keep_write_errors()\n"
        f"file = open({str(tmp_path / 'file')!r}, 'w'); print('to nobody', flush=True); os.write(2, b'to nobody')\n"
        "sys.exit(file.fileno() < 3)"
    )
    command = f'exec {sys.executable} -c "$0" <&- >&- 2>&-'
    done = subprocess.run(["bash", "-c", command, code], cwd=REPOSITORY, check=False)
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == ""


def test_a_full_disk_of_stdout_is_told_and_the_exit_code_is_1(tmp_path: Path) -> None:
    done = shell("--help > /dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "tirazh: the result could not be printed: standard output: No space left on device\n"


def test_a_reader_that_has_gone_away_is_no_error(tmp_path: Path) -> None:
    done = shell("--help | true; exit ${PIPESTATUS[0]}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_message_that_cannot_be_written_does_not_change_the_exit_code(tmp_path: Path) -> None:
    assert shell("verify nowhere 2> /dev/full", tmp_path).returncode == 2


def test_text_that_a_terminal_cannot_show_is_printed_as_escapes(tmp_path: Path) -> None:
    done = shell("verify нигде", tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert "\\u043d" in done.stderr
    assert done.stderr.isascii()


def test_signs_of_our_own_are_printed_as_plain_ones() -> None:
    like = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    reading, writing = os.pipe()
    with tolerant_stream(writing, like=like) as stream:
        stream.write("1–2 · ещё …")
    os.close(writing)
    with open(reading, encoding="ascii") as pipe:
        assert pipe.read() == "1-2 | \\u0435\\u0449\\u0451 ..."


def test_a_stream_keeps_its_first_error_and_goes_on() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    stream = tolerant_stream(descriptor, like=sys.__stdout__)
    stream.write("x")
    error = write_error(stream)
    assert error is not None
    assert "No space left" in str(error)
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    stream.write("y")
    assert write_error(stream) is error


def test_a_pipe_that_does_not_block_gets_all_of_a_long_text() -> None:
    """Another program that shares the pipe may have made it so; a plain stream would raise BlockingIOError."""
    code = (
        "import os, sys; from tirazh.jobs.terminal.streams import *; os.set_blocking(1, False); keep_write_errors()\n"
    )
    code += "sys.stdout.write('x' * 1_000_000); sys.stdout.flush()"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, check=True)
    assert len(done.stdout) == 1_000_000


def test_json_for_a_terminal_without_unicode_is_still_json() -> None:
    code = "from tirazh.jobs.console import show_facts; show_facts({'метка': 'ещё 🏴'}, as_json=True, quiet=False)"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:backslashreplace"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, check=True
    )
    assert json.loads(done.stdout) == {"метка": "ещё 🏴"}
