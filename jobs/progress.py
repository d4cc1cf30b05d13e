"""Progress displays: a live bar in a terminal, a line every ten seconds in a log, nothing with -q.

Everything is written to stderr: stdout holds only the result.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from tirazh.pipeline.execution.metrics import ProgressEvent

Style = Literal["bar", "lines", "quiet"]
LINE_EVERY_S = 10.0


Event = TypeVar("Event")


class Display(ABC, Generic[Event]):
    """Shows progress events and keeps the last one. Subclasses define the text of an event.

    Use it as a context manager and pass `show` to the pipeline as the callback. `style` None means
    a bar when the stream is a terminal and lines otherwise.
    """

    def __init__(
        self,
        style: Style | None = None,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr
        self.style: Style = style or ("bar" if self._stream.isatty() else "lines")
        self.last: Event | None = None
        self._clock = clock
        self._next_line = clock() + 2.0  # the first line comes early: it shows that the job has started
        self._printed: Event | None = None
        self._bar: Bar | None = None
        self._task: Any = None

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
        if self.style != "quiet":
            print(text, file=self._stream, flush=True)

    @abstractmethod
    def describe(self, event: Event) -> str:
        """Return one log line."""

    @abstractmethod
    def bar_state(self, event: Event) -> tuple[int, int | None, list[str]]:
        """Return the completed units, the total (None: unknown) and the texts after the bar."""

    def _print_line(self, event: Event) -> None:
        self._printed = event
        print(self.describe(event), file=self._stream, flush=True)

    def _update_bar(self, event: Event) -> None:
        if self._bar is None:
            self._bar, self._task = start_bar(self._stream)
        completed, total, facts = self.bar_state(event)
        self._bar.update(self._task, completed=completed, total=total, facts=" · ".join(facts))


class JobProgressDisplay(Display["ProgressEvent"]):
    """Shows the progress of classify and generate: rows, parts, speed, errors and remaining time."""

    def describe(self, event: ProgressEvent) -> str:
        return describe(event)

    def bar_state(self, event: ProgressEvent) -> tuple[int, int | None, list[str]]:
        return event.rows_done, event.rows_total or None, _facts(event)

    def interrupted(self) -> str:
        """Return the message for a job that was stopped by a signal."""
        if self.last is None or not self.last.parts_total:
            return "interrupted before the first part was written; run the same command to start again"
        return (
            f"interrupted: {self.last.parts_done} of {self.last.parts_total} parts are written; "
            "run the same command to resume"
        )


class ByteProgress:
    """Shows the share of processed bytes: one updated line in a terminal, new lines in a log."""

    def __init__(self, quiet: bool, *, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_quiet = quiet
        self._is_terminal = self._stream.isatty()
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
        start, end = ("\r", "") if self._is_terminal else ("", "\n")
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
    return " · ".join([rows, parts, *_facts(event)])


def clock_text(seconds: float) -> str:
    """Format a duration as `0:07`, `12:30` or `1:02:03`."""
    minutes, secs = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"


def _facts(event: ProgressEvent) -> list[str]:
    facts = [f"{event.tokens_per_s:,.0f} tokens/s", _count(event.replicas, "replica")]
    if event.error_rows:
        facts.append(_count(event.error_rows, "error"))
    facts.append(_time(event))
    return facts


def _time(event: ProgressEvent) -> str:
    if event.parts_done == event.parts_total:
        return f"took {clock_text(event.elapsed_s)}"
    if event.eta_s is None:
        return f"starting, {clock_text(event.elapsed_s)}"
    return f"{clock_text(event.eta_s)} left"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def start_bar(stream: TextIO) -> tuple[Bar, Any]:
    """Start a bar on `stream`; returns it and its task.

    The task's field `facts` is the text after the bar.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    bar = Progress(
        SpinnerColumn(),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        console=Console(file=stream),
        transient=True,  # the bar disappears at the end, and the summary takes its place
        refresh_per_second=4,
    )
    bar.start()
    return bar, bar.add_task("rows", total=None, facts="starting")
