"""Ctrl-C and SIGTERM: end the run within seconds, report how far it came, and exit with 130 or 143."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

from tirazh.jobs import notifying

PATIENCE_S = 10.0


class Interrupted(Exception):
    """A signal ended the command.

    The message is for the user; the exit code is 128 + the signal's number.
    """

    def __init__(self, message: str, exit_code: int = 128 + signal.SIGINT) -> None:
        super().__init__(message, exit_code)
        self.exit_code = exit_code

    def __str__(self) -> str:
        return str(self.args[0])


@contextmanager
def interruptible(
    describe: Callable[[], str], *, stream: TextIO | None = None, patience_s: float | None = None
) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM inside the block into Interrupted(describe()).

    If shutdown takes longer than `patience_s` (default: PATIENCE_S), or on a second signal, the
    process prints the message to `stream` and exits at once. No data is lost by that: files are
    written completely or not at all. Outside the main thread, where Python cannot catch signals,
    the block runs unchanged.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    timer: threading.Timer | None = None

    def leave() -> None:
        print(f"tirazh: {describe()}", file=stream or sys.stderr, flush=True)
        notifying.end(128 + received[0], describe())
        os._exit(128 + received[0])

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal timer
        received.append(number)
        signal.alarm(0)  # Ray's C++ signal handler sets an alarm that would abort the process after three seconds
        if len(received) > 1:
            leave()
        timer = threading.Timer(PATIENCE_S if patience_s is None else patience_s, leave)
        timer.daemon = True
        timer.start()
        notifying.begin_end(128 + number, describe())
        raise KeyboardInterrupt

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(describe(), 128 + (received or [signal.SIGINT])[0]) from None
    except SystemExit as end:
        # ray.init replaces the SIGTERM handler by its own, which calls sys.exit(signal number).
        if end.code != signal.SIGTERM:
            raise
        raise Interrupted(describe(), 128 + signal.SIGTERM) from None
    finally:
        if timer is not None:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
