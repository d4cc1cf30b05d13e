"""The exceptions of tirazh. Standard library only, so that every package can import them.

    TirazhError                     base; the message is one sentence, which the command line prints
    ├── RequestError (ValueError)   the request is wrong, nothing was started: exit code 2
    │   ├── CheckpointError         a model directory cannot be read
    │   ├── InputError              input files, columns or values cannot be used
    │   └── OutputError             an output directory cannot take this job
    └── JobError (RuntimeError)     the job was started and failed: exit code 1
        ├── ReplicaError            a replica or one of its ranks died or did not start
        └── StorageError            an object store does not answer, or refuses a request

    RowError (ValueError)           one row cannot be processed; the message becomes its `error` value

They cross process boundaries, so they must pickle: the message is the only positional argument.
"""

from __future__ import annotations

from collections.abc import Iterable


class TirazhError(Exception):
    """Base of all errors that tirazh raises on purpose.

    The message is one sentence for the user.
    """

    exit_code = 1


class RequestError(TirazhError, ValueError):
    """The request is wrong or impossible; nothing was started."""

    exit_code = 2


class CheckpointError(RequestError):
    """A model directory is missing, incomplete, unsafe to load or of an unknown format."""


class InputError(RequestError):
    """Input files, columns or values cannot be used."""


class OutputError(RequestError):
    """An output directory cannot take this job's files."""


class JobError(TirazhError, RuntimeError):
    """The job was started and failed."""


class ReplicaError(JobError):
    """A replica or one of its ranks died, stopped responding or did not start."""


class StorageError(JobError):
    """The storage does not answer, or refuses a request."""


class RowError(ValueError):
    """One row cannot be processed; the message becomes its `error` value and the job continues."""


def did_you_mean(word: str, choices: Iterable[str], *, prefix: str = "") -> str:
    """`"; did you mean top_k?"` for the choice closest to `word`, or an empty string when none is close.

    `prefix` is shown before the choice: the directory of a file name, for example.
    """
    close = closest(word, choices)
    return f"; did you mean {prefix}{close}?" if close else ""


def closest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` was probably meant to be: it differs in case and punctuation only, is at most two edits
    away, has the same beginning, or `word` is short for it (`bf16` for `bfloat16`)."""
    from difflib import get_close_matches

    all_choices = list(choices)
    same = [choice for choice in all_choices if _letters(choice) and _letters(choice) == _letters(word)]
    similar = [choice for choice in get_close_matches(word, all_choices, n=3) if _is_near(word, choice)]
    return next(iter(same or similar), None)


def _is_near(word: str, choice: str) -> bool:
    rest = iter(choice)
    is_short_for_it = word[:1] == choice[:1] and all(letter in rest for letter in word)
    shorter, longer = sorted((len(word), len(choice)))
    common = next((i for i in range(shorter) if word[i] != choice[i]), shorter)
    has_its_beginning = 3 * common >= 2 * longer
    return is_short_for_it or has_its_beginning or _edits(word, choice) <= 2


def _edits(word: str, choice: str) -> int:
    """The fewest letters to insert, remove or replace, or neighbours to swap, that make one text the other."""
    before: list[int] = []
    last = list(range(len(choice) + 1))
    for i, letter in enumerate(word, start=1):
        row = [i]
        for j, other in enumerate(choice, start=1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == choice[j - 2] and word[i - 2] == other:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]


def _letters(word: str) -> str:
    return "".join(filter(str.isalnum, word)).casefold()
