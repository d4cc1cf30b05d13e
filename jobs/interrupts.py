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
    describe: Callable[[], str],
    *,
    stream: TextIO | None = None,
    patience_s: float | None = None,
    before: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM inside the block into Interrupted(describe()).

    With `before` the block continues while that runs in a thread, and is interrupted after it or by a second signal.

    If shutdown takes longer than `patience_s` (default: PATIENCE_S), or on a second signal, the
    process prints the message to `stream` and exits at once. No data is lost by that: files are
    written completely or not at all. Outside the main thread, where Python cannot catch signals,
    the block runs unchanged.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = _Signals(describe, stream or sys.stderr, PATIENCE_S if patience_s is None else patience_s, before)
    earlier = {number: signal.signal(number, signals.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(describe(), 128 + signals.first) from None
    except Interrupted as error:  # a command has explained the interruption itself
        if signals.has_received:  # else a block inside this one has received the signal
            error.exit_code = 128 + signals.first
        raise
    except SystemExit as end:
        # ray.init replaces the SIGTERM handler by its own, which calls sys.exit(signal number).
        if end.code != signal.SIGTERM:
            raise
        raise Interrupted(describe(), 128 + signal.SIGTERM) from None
    finally:
        signals.close()
        for number, handler in earlier.items():
            signal.signal(number, handler)


class _Signals:
    """What the signals of one block do. `before` runs in a thread between the first signal and the interruption."""

    def __init__(
        self, describe: Callable[[], str], stream: TextIO, patience_s: float, before: Callable[[], None] | None
    ) -> None:
        self._describe, self._stream, self._patience_s, self._before = describe, stream, patience_s, before
        self.first: int = signal.SIGINT
        self._count = 0
        self._timer: threading.Timer | None = None
        self._is_over = threading.Event()

    @property
    def has_received(self) -> bool:
        """Whether a signal has arrived in this block."""
        return self._count > 0

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signals. Raises KeyboardInterrupt once, and ends the process at the signal after it."""
        signal.alarm(0)  # Ray's C++ signal handler sets an alarm that would abort the process after three seconds
        self._count += 1
        if self._count == 1:
            self.first = number
            if self._before is not None:
                threading.Thread(target=self._end_in_order, args=(self._before,), daemon=True).start()
                return
        if self._timer is not None:
            self._leave()
        self._timer = threading.Timer(self._patience_s, self._leave)
        self._timer.daemon = True
        self._timer.start()
        notifying.begin_end(128 + self.first, self._describe())
        raise KeyboardInterrupt(self.first)  # the history of the runs records which signal it was

    def close(self) -> None:
        """Cancel what has not happened yet."""
        self._is_over.set()
        if self._timer is not None:
            self._timer.cancel()

    def _end_in_order(self, before: Callable[[], None]) -> None:
        try:
            before()
        finally:
            # A second signal has interrupted the block already, or it has ended by itself.
            if not self._is_over.is_set() and self._timer is None:
                os.kill(os.getpid(), self.first)

    def _leave(self) -> None:
        print(f"tirazh: {self._describe()}", file=self._stream, flush=True)
        notifying.end(128 + self.first, self._describe())
        os._exit(128 + self.first)
