"""How a bad input must end: it works after all, or one of our errors says in one sentence what is wrong; soon, and
without eating the machine's memory. Every input that is tried is counted; `conftest.py` prints the counts.
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

TIME_LIMIT_S = 10.0
# Beyond what the process has when an action begins: more is asked for by a lie in the input, not by the input.
ADDRESS_SPACE = 2 << 30
LONGEST_SENTENCE = 1_500

# What was tried, by the name of the thing that was tried on: hashes, so that the same input counts once.
tried: dict[str, set[bytes]] = defaultdict(set)
refused: dict[str, set[bytes]] = defaultdict(set)


class Overtime(BaseException):
    """The action took too long; a BaseException, so that no `except Exception` swallows it."""


def attempt(target: str, given: object, action: Callable[[], Any]) -> str:
    """Run `action`, which reads the bad input `given`. Returns the sentence it was refused with, or "" when it worked.

    Anything else (another exception, overtime, memory) is raised: that is a bug in the code under test.
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
    """`attempt` for an input that must not work."""
    sentence = attempt(target, given, action)
    assert sentence, f"{target}: taken as good: {given!r:.300}"
    return sentence


def _check_sentence(error: TirazhError | RowError) -> str:
    sentence = one_sentence(error) if isinstance(error, TirazhError) else str(error)
    assert sentence.strip(), "an error without a word"
    assert "Traceback" not in sentence
    assert len(sentence) <= LONGEST_SENTENCE, f"{len(sentence)} characters are no sentence: {sentence[:200]}"
    assert sentence.isprintable() or all(sign.isprintable() or sign == " " for sign in sentence), repr(sentence)
    return sentence


@contextmanager
def _limits() -> Iterator[None]:
    """A time limit, and on Linux one on memory: an explosion is then a MemoryError, not a machine that swaps."""
    begun = time.monotonic()
    before = signal.signal(signal.SIGALRM, _overtime)
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_S)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ADDRESS_SPACE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - begun < TIME_LIMIT_S


def _overtime(number: int, frame: FrameType | None) -> None:
    raise Overtime(f"not done after {TIME_LIMIT_S:g} s")
