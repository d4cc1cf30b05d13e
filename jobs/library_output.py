"""What Ray and other libraries write to stderr while a job runs, tracebacks and C++ lines included, goes to a log file
in OUTPUT/_tirazh/logs, so that the terminal holds our progress and one sentence at the end.
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
    """Redirect stderr, down to its file descriptor, for the time of the block; yields the stream that still reaches
    the terminal. Does nothing where stderr is not the process's own (a notebook, a test), or when it is not `wanted`.
    """
    if not wanted or not _is_real(sys.stderr):
        yield sys.stderr
        return
    sys.stderr.flush()
    began = datetime.now()
    handle, name = tempfile.mkstemp(prefix="tirazh-", suffix=".log")
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
    """Where the logs of a job lie: beside its plan, if its output is on this machine and has been begun."""
    own = Path(output) / OWN
    return own / LOGS if "://" not in output and own.is_dir() else None


def _is_real(stream: TextIO) -> bool:
    try:
        return stream.fileno() == STDERR
    except (OSError, ValueError, AttributeError):
        return False


def _keep(log: Path, directory: Path | None, name: str) -> None:
    """Move the log to the job's logs; an empty one, or one without a place, is not worth keeping. One
    that cannot be written there stays where it is."""
    if directory is not None and log.stat().st_size:
        try:
            directory.mkdir(exist_ok=True)
            text = redact(log.read_text(encoding="utf-8", errors="replace"))
            (directory / name).write_text(text, encoding="utf-8")
        except OSError:  # a full disk, for one: why the job ended must not be hidden by it
            return
    log.unlink()
