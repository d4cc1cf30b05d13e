"""Every error a user can meet, in one tree.

    TirazhError                     one clear sentence; the command line prints it and nothing else
    ├── RequestError (ValueError)   the request was wrong: exit code 2
    │   ├── CheckpointError         a model directory that cannot be read, and why
    │   ├── InputError              input files, columns or values that cannot be used
    │   └── OutputError             an output directory that holds something else
    └── JobError (RuntimeError)     the work itself failed: exit code 1
        ├── ReplicaError            a replica or one of its ranks died or did not start
        └── StorageError            object storage did not answer, or refused

    RowError (ValueError)           one row cannot be run; it becomes that row's `error` value

All of them pickle: the message is the only positional argument.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class TirazhError(Exception):
    """Base of everything tirazh raises on purpose. The message is a sentence for the user."""

    exit_code = 1


class RequestError(TirazhError, ValueError):
    """What was asked for is wrong or impossible; nothing has been started."""

    exit_code = 2


class CheckpointError(RequestError):
    """A model directory that is missing, cut short, unsafe or of a kind we do not know."""


class InputError(RequestError):
    """Input files, columns or values that cannot be used."""


class OutputError(RequestError):
    """An output directory that cannot take this job's files."""


class JobError(TirazhError, RuntimeError):
    """The job was started and could not finish."""


class ReplicaError(JobError):
    """A replica, or one rank of it, died, hung or did not start."""


class StorageError(JobError):
    """Storage did not answer, or refused us."""


class RowError(ValueError):
    """One row cannot be run; the message becomes its `error` value and the job goes on."""


def did_you_mean(word: str, choices: Iterable[str], *, prefix: str = "") -> str:
    """`"; did you mean top_k?"` for the choice closest to `word`, or an empty string when none is close.

    `prefix` is shown before the choice: the directory of a file name, for example.
    """
    close = get_close_matches(word, list(choices), n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else ""
