"""Redirects what Ray and other libraries write to stderr to a log file in OUTPUT/_tirazh/logs.

The terminal then shows only progress and, at the end, a result or one sentence.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TextIO

from tirazh.pipeline.output.names import OWN
from tirazh.pipeline.storage.secrets import redact

STDERR = 2
LOGS = "logs"


@contextmanager
def redirect_library_output(output: str, *, wanted: bool = True) -> Iterator[TextIO]:
    """Redirect the file descriptor of stderr; yields a stream that still reaches the terminal.

    Does nothing when `wanted` is false, and when `sys.stderr` is not the process's stderr (in a
    notebook or a test).
    """
    if not wanted or not _is_real(sys.stderr):
        yield sys.stderr
        return
    sys.stderr.flush()
    began = datetime.now()
    handle, name = tempfile.mkstemp(prefix="tirazh-", suffix=".log")
    # Replacing the descriptor, not only sys.stderr, also catches C++ code and child processes.
    terminal = os.dup(STDERR)
    os.dup2(handle, STDERR)
    os.close(handle)
    try:
        with open(terminal, "w", encoding=sys.stderr.encoding, errors="replace", closefd=False) as stream:
            yield stream
    finally:
        sys.stderr.flush()
        os.dup2(terminal, STDERR)
        os.close(terminal)
        _keep(Path(name), log_directory(output), f"{began:%Y%m%d-%H%M%S}-{os.getpid()}.log")


def log_directory(output: str) -> Path | None:
    """Return the log directory of a job, or None when its output is remote or not yet created."""
    own = Path(output) / OWN
    return own / LOGS if "://" not in output and own.is_dir() else None


def _is_real(stream: TextIO) -> bool:
    try:
        return stream.fileno() == STDERR
    except (OSError, ValueError, AttributeError):
        return False


def _keep(log: Path, directory: Path | None, name: str) -> None:
    """Move the log to `directory`.

    Deletes it when it is empty or there is no directory; keeps it on a write error.
    """
    if directory is not None and log.stat().st_size:
        try:
            directory.mkdir(exist_ok=True)
            text = redact(log.read_text(encoding="utf-8", errors="replace"))
            (directory / name).write_text(text, encoding="utf-8")
        except OSError:  # such as a full disk; it must not hide why the job ended
            return
    log.unlink()
