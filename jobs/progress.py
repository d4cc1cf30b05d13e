"""Progress displays: a live line in a terminal, a line every ten seconds in a log, nothing with -q.

Everything is written to stderr: stdout holds only the result.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Literal, Self, TextIO, TypeVar

from tirazh.jobs.terminal.live_line import LineState, LiveLine, is_plain_terminal
from tirazh.jobs.terminal.streams import open_null

if TYPE_CHECKING:
    from tirazh.pipeline.execution.metrics import ProgressEvent

Style = Literal["bar", "lines", "quiet"]
LINE_EVERY_S = 10.0


Event = TypeVar("Event")


class Display(ABC, Generic[Event]):
    """Shows progress events and keeps the last one. Subclasses define the text of an event.

    Use it as a context manager and pass `show` to the pipeline as the callback. `style` None means
    a bar when the stream is a terminal that can draw a line again, and lines otherwise.
    """

    def __init__(
        self,
        style: Style | None = None,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr or open_null()
        has_bar = self._stream.isatty() and not is_plain_terminal(self._stream)
        self.style: Style = style or ("bar" if has_bar else "lines")
        self.last: Event | None = None
        self._clock = clock
        self._next_line = clock() + 2.0  # the first line comes early: it shows that the job has started
        self._printed: Event | None = None
        self._bar: LiveLine | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self.style == "lines" and self.last is not None and self._printed is not self.last:
            self._print_line(self.last)

    def show(self, event: Event) -> None:
        """Show an event. Cheap: prints at most one line every LINE_EVERY_S seconds."""
        self.last = event
        if self.style == "bar":
            self._update_bar(event)
        elif self.style == "lines" and self._clock() >= self._next_line:
            self._next_line = self._clock() + LINE_EVERY_S
            self._print_line(event)

    def say(self, text: str) -> None:
        """Print a line of text, unless the display is quiet."""
        if self._bar is not None:
            self._bar.print_above(text)
        elif self.style != "quiet":
            self._print(text)

    @abstractmethod
    def describe(self, event: Event) -> str:
        """Return one log line."""

    @abstractmethod
    def line_state(self, event: Event) -> LineState:
        """Return what the line in a terminal shows."""

    def _print_line(self, event: Event) -> None:
        self._printed = event
        self._print(self.describe(event))

    def _print(self, text: str) -> None:
        time_stamp = f"{utc_text()} " if self.style == "lines" else ""
        print(f"{time_stamp}{text}", file=self._stream, flush=True)

    def _update_bar(self, event: Event) -> None:
        if self._bar is None:
            self._bar = LiveLine(self._stream)
        self._bar.update(self.line_state(event))


class JobProgressDisplay(Display["ProgressEvent"]):
    """Shows the progress of classify and generate: rows, parts, speed, errors and remaining time."""

    def describe(self, event: ProgressEvent) -> str:
        return describe(event)

    def line_state(self, event: ProgressEvent) -> LineState:
        speed, replicas, *errors = _facts(event)
        parts = f"{event.parts_done:,}/{event.parts_total:,} parts"
        step = (event.step,) if event.step else ()
        return LineState(
            done=event.rows_done,
            total=event.rows_total or None,
            time=_time(event),
            facts=(*step, *errors, replicas, speed, parts),
        )

    def interrupted(self) -> str:
        """Return the message for a job that was stopped by a signal."""
        if self.last is None or not self.last.parts_total:
            return "interrupted before the first part was written; run the same command to start again"
        step = f"in {self.last.step}, " if self.last.step else ""
        return (
            f"interrupted: {step}{self.last.parts_done} of {self.last.parts_total} parts are written; "
            "run the same command to resume"
        )


class ByteProgress:
    """Shows the share of processed bytes: one updated line in a terminal, new lines in a log."""

    def __init__(self, quiet: bool, *, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr or open_null()
        self._is_quiet = quiet
        self._is_terminal = self._stream.isatty() and not is_plain_terminal(self._stream)
        self._next = time.monotonic() + 1.0
        self._is_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_open:
            print(file=self._stream)

    def show(self, done: int, total: int) -> None:
        """Show `done` of `total` bytes."""
        now = time.monotonic()
        if self._is_quiet or now < self._next:
            return
        self._next = now + (0.25 if self._is_terminal else LINE_EVERY_S)
        self._is_open = self._is_terminal
        start, end = ("\r", "") if self._is_terminal else (f"{utc_text()} ", "\n")
        share = done / total if total else 1.0
        print(f"{start}{share:4.0%} of {bytes_text(total)}", end=end, file=self._stream, flush=True)


def bytes_text(count: float) -> str:
    """Format a number of bytes as `12.5 MiB` or `24.3 GiB`."""
    return f"{count / 2**20:,.1f} MiB" if count < 2**30 else f"{count / 2**30:,.1f} GiB"


def describe(event: ProgressEvent) -> str:
    """Return one log line: rows, parts, speed, replicas, errors and remaining time."""
    share = f" ({event.rows_done / event.rows_total:.0%})" if event.rows_total else ""
    rows = f"{event.rows_done:,} of {event.rows_total:,} rows{share}"
    parts = f"{event.parts_done} of {event.parts_total} parts"
    step = [event.step] if event.step else []
    return " · ".join([*step, rows, parts, *_facts(event), _time(event)])


def clock_text(seconds: float) -> str:
    """Format a duration as `0:07`, `12:30` or `1:02:03`."""
    minutes, secs = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"


def utc_text() -> str:
    """The current time, as log lines begin with it: `2026-11-23T01:30:00Z`."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _facts(event: ProgressEvent) -> list[str]:
    facts = [f"{event.tokens_per_s:,.0f} tokens/s", _count(event.replicas, "replica")]
    if event.error_rows:
        facts.append(_count(event.error_rows, "error"))
    return facts


def _time(event: ProgressEvent) -> str:
    if event.parts_done == event.parts_total:
        return f"took {clock_text(event.elapsed_s)}"
    if event.eta_s is None:
        return f"starting, {clock_text(event.elapsed_s)}"
    return f"{clock_text(event.eta_s)} left"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
