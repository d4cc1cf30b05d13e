"""Redirects what Ray and other libraries write to stderr to a log file in OUTPUT/_tirazh/logs.

The terminal then shows only progress and, at the end, a result or one sentence. The log of a failed run is
also kept when the output is in an object store.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from tirazh.errors import RequestError, TirazhError
from tirazh.jobs.interrupts import Interrupted
from tirazh.jobs.terminal.streams import STDERR, tolerant_stream
from tirazh.pipeline.output.names import OWN
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.secrets import redact

LOGS = "logs"
# Bytes of the end of the log that are kept.
MAX_LOG_BYTES = 16 << 20


@contextmanager
def redirect_library_output(output: str, *, endpoint_url: str | None = None, wanted: bool = True) -> Iterator[TextIO]:
    """Redirect the file descriptor of stderr; yields a stream that still reaches the terminal.

    An error that leaves the block is written to the log with its traceback, and gets a note (`__notes__`) that
    says where the log is, if that is not OUTPUT/_tirazh/logs or the error is an internal one. Does nothing when
    `wanted` is false, and when `sys.stderr` is not the process's stderr (in a notebook or a test).
    """
    if not wanted or not _is_real(sys.stderr):
        yield sys.stderr
        return
    sys.stderr.flush()
    began = datetime.now(UTC)
    handle, path = tempfile.mkstemp(prefix="tirazh-", suffix=".log")
    # Replacing the descriptor, not only sys.stderr, also catches C++ code and child processes.
    terminal = os.dup(STDERR)
    os.dup2(handle, STDERR)
    os.close(handle)
    log, name = Path(path), f"{began:%Y%m%d-%H%M%S}-{os.getpid()}.log"
    try:
        with tolerant_stream(terminal, like=sys.stderr) as stream:
            yield stream
    except BaseException as error:
        if not isinstance(error, (RequestError, Interrupted, KeyboardInterrupt)):
            traceback.print_exc()  # into the log
        _restore(terminal)
        note = _keep_of_failure(log, output, endpoint_url, name, error)
        if note:
            error.add_note(note)
        raise
    _restore(terminal)
    _keep_of_success(log, output, name)


def log_directory(output: str) -> Path | None:
    """Return the log directory of a job, or None when its output is remote or not yet created."""
    own = Path(output) / OWN
    return own / LOGS if "://" not in output and own.is_dir() else None


def _is_real(stream: TextIO) -> bool:
    try:
        return stream.fileno() == STDERR
    except (OSError, ValueError, AttributeError):
        return False


def _restore(terminal: int) -> None:
    sys.stderr.flush()
    os.dup2(terminal, STDERR)
    os.close(terminal)


def _keep_of_success(log: Path, output: str, name: str) -> None:
    """Move the log to the output's logs if that is on a disk; delete it otherwise."""
    try:
        if log.stat().st_size and log_directory(output) is not None:
            _write(output, None, name, _tail(log))
        log.unlink()
    except OSError:  # such as a full disk; the job has succeeded all the same
        return


def _keep_of_failure(log: Path, output: str, endpoint_url: str | None, name: str, error: BaseException) -> str:
    """Move the log to the output's logs, on a disk or in an object store.

    Returns the end of a sentence that says where it is, or "" if that is the usual place or there is none.
    """
    is_wanted = not isinstance(error, (RequestError, Interrupted, KeyboardInterrupt))
    is_internal = is_wanted and not isinstance(error, TirazhError)
    try:
        text = _tail(log)
        place = _write(output, endpoint_url, name, text) if text and (is_wanted or "://" not in output) else ""
        if place or not text or not is_wanted:
            log.unlink()
            return f"the traceback is in {place}" if is_internal and place else ""
        problem = f"{show_uri(output)} has no {OWN}"
    except (OSError, TirazhError) as failure:
        problem = redact(" ".join(str(failure).split()))[:200]
    try:  # it stays where it is, without the secrets in it
        log.write_text(_tail(log), encoding="utf-8")
    except OSError as failure:
        return f"the log could not be written: {failure.strerror or failure}"
    return f"the log with the traceback is in {log} ({problem})"


def _write(output: str, endpoint_url: str | None, name: str, text: str) -> str:
    """Write a log to OUTPUT/_tirazh/logs and return its place. "": the job has not started, so there is no `_tirazh`.

    Raises OSError and StorageError.
    """
    directory = log_directory(output)
    if directory is not None:
        directory.mkdir(exist_ok=True)
        (directory / name).write_text(text, encoding="utf-8")
        return str(directory / name)
    if "://" not in output:
        return ""
    from tirazh.pipeline.storage.filesystem import Storage, full_uri, join

    storage, own = Storage(endpoint_url), join(full_uri(output), OWN)
    if not storage.names(own) and not storage.directories(own):
        return ""
    place = join(own, LOGS, name)
    storage.write(place, text.encode())
    return show_uri(place)


def _tail(log: Path) -> str:
    """Return the last MAX_LOG_BYTES of a log without secrets."""
    size = log.stat().st_size
    with log.open("rb") as file:
        file.seek(max(0, size - MAX_LOG_BYTES))
        data = file.read(MAX_LOG_BYTES)
    if size > len(data):
        data = f"({size - len(data):,} bytes before this were left out)\n".encode() + data.partition(b"\n")[2]
    return redact(data.decode("utf-8", errors="replace"))
