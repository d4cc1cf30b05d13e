"""Checks that reading a bad input succeeds or raises one of our errors with a one-sentence message.

Each attempt has a limit on time and on memory. Every distinct input is counted; `conftest.py` prints the counts.
"""

from __future__ import annotations

import resource
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from types import FrameType
from typing import Any

from tirazh.errors import RowError, TirazhError
from tirazh.jobs.cli import one_sentence

# Of the processor: other programs may slow the machine down.
TIME_LIMIT_S = 10.0
# Bytes that an action may add to the address space. Only a false length in an input asks for more.
ADDRESS_SPACE = 2 << 30
LONGEST_SENTENCE = 1_500  # characters

# Hashes of the inputs that were tried and refused, by target, so that a repeated input counts once.
tried: dict[str, set[bytes]] = defaultdict(set)
refused: dict[str, set[bytes]] = defaultdict(set)


class TimeLimitExceeded(BaseException):
    """Raised when an action exceeds the time limit.

    It is a BaseException, so that no `except Exception` catches it.
    """


def attempt(target: str, given: object, action: Callable[[], Any]) -> str:
    """Run `action`, which reads the bad input `given`, within the limits.

    Returns the message of the error that refused the input, or "" if the action succeeded. Any other
    exception, a timeout and a MemoryError are bugs in the code under test and propagate.
    """
    digest = blake2b(given if isinstance(given, bytes) else repr(given).encode("utf-8", "backslashreplace")).digest()
    tried[target].add(digest)
    try:
        with _limits():
            action()
    except (TirazhError, RowError) as error:
        refused[target].add(digest)
        return _check_sentence(error)
    return ""


def refusal(target: str, given: object, action: Callable[[], Any]) -> str:
    """Run `attempt` on an input that must be refused, and return the message."""
    sentence = attempt(target, given, action)
    assert sentence, f"{target}: accepted a bad input: {given!r:.300}"
    return sentence


def _check_sentence(error: TirazhError | RowError) -> str:
    sentence = one_sentence(error) if isinstance(error, TirazhError) else str(error)
    assert sentence.strip(), "the error has no message"
    assert "Traceback" not in sentence
    assert len(sentence) <= LONGEST_SENTENCE, f"{len(sentence)} characters are too many: {sentence[:200]}"
    assert sentence.isprintable() or all(char.isprintable() or char == " " for char in sentence), repr(sentence)
    return sentence


@contextmanager
def _limits() -> Iterator[None]:
    """Limit the time of the processor and, on Linux, the address space.

    Excessive allocation then raises a MemoryError instead of making the machine swap.
    """
    started = time.process_time()
    previous_handler = signal.signal(signal.SIGPROF, _raise_timeout)
    signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT_S)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ADDRESS_SPACE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous_handler)
    assert time.process_time() - started < TIME_LIMIT_S


def _raise_timeout(number: int, frame: FrameType | None) -> None:
    raise TimeLimitExceeded(f"the action did not finish within {TIME_LIMIT_S:g} s")
