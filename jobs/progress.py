"""Progress displays: a live line in a terminal, a line every ten seconds in a log, JSON for programs, nothing with -q.

Everything is written to stderr: stdout holds only the result.
"""

from __future__ import annotations

import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TextIO, TypeVar

from tirazh.jobs.terminal.live_line import LineState, LiveLine, is_plain_terminal, share_text, waiting_text
from tirazh.jobs.terminal.streams import open_null
from tirazh.model.byte_text import bytes_text

if TYPE_CHECKING:
    from tirazh.pipeline.execution.metrics import ProgressEvent

Style = Literal["bar", "lines", "json", "quiet"]
STYLES = ("bar", "lines", "json")
LINE_EVERY_S = 10.0


Event = TypeVar("Event")


class Display(ABC, Generic[Event]):
    """Shows progress events and keeps the last one. Subclasses define the text of an event.

    Use it as a context manager and pass `show` to the pipeline as the callback. `style` None means
    a bar when the stream is a terminal that can draw a line again, and lines otherwise. Where no line can be drawn
    again, "bar" means lines too.
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
        has_bar = has_bar and style in (None, "bar")
        self.style: Style = "bar" if has_bar else style if style not in (None, "bar") else "lines"
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
        if self.style in ("lines", "json") and self.last is not None and self._printed is not self.last:
            self._print_line(self.last)

    def show(self, event: Event) -> None:
        """Show an event. Cheap: prints at most one line every LINE_EVERY_S seconds."""
        self.last = event
        if self.style == "bar":
            self._update_bar(event)
        elif self.style in ("lines", "json") and self._clock() >= self._next_line:
            self._next_line = self._clock() + LINE_EVERY_S
            self._print_line(event)

    def say(self, text: str) -> None:
        """Print a line of text, unless the display is quiet."""
        if self._bar is not None:
            self._bar.print_above(text)
        elif self.style == "json":
            self._print_json({"message": text})
        elif self.style != "quiet":
            self._print(text)

    @abstractmethod
    def describe(self, event: Event) -> str:
        """Return one log line."""

    @abstractmethod
    def line_state(self, event: Event) -> LineState:
        """Return what the line in a terminal shows."""

    def facts(self, event: Event) -> dict[str, Any]:
        """Return the figures of a line of JSON."""
        return {"message": self.describe(event)}

    def _print_line(self, event: Event) -> None:
        self._printed = event
        if self.style == "json":
            self._print_json(self.facts(event))
        else:
            self._print(self.describe(event))

    def _print_json(self, facts: dict[str, Any]) -> None:
        # As ASCII: an escape that the stream makes of a character that its encoding does not have is not JSON.
        print(json.dumps({"time": utc_text()} | facts), file=self._stream, flush=True)

    def _print(self, text: str) -> None:
        time_stamp = f"{utc_text()} " if self.style == "lines" else ""
        print(f"{time_stamp}{text}", file=self._stream, flush=True)

    def _update_bar(self, event: Event) -> None:
        if self._bar is None:
            self._bar = LiveLine(self._stream)
        self._bar.update(self.line_state(event))


class JobProgressDisplay(Display["ProgressEvent"]):
    """Shows the progress of classify, generate, score and embed: rows, parts, speed, errors and remaining time."""

    def __init__(
        self,
        style: Style | None = None,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
    ) -> None:
        """`began` is the time of `clock` from which the wall time counts; by default now."""
        super().__init__(style, stream=stream, clock=clock)
        self.began = clock() if began is None else began

    @property
    def wall_s(self) -> float:
        """Seconds since the job began, the start of Ray included."""
        return self._clock() - self.began

    def show(self, event: ProgressEvent) -> None:
        """Show an event. Cheap: prints at most one line every LINE_EVERY_S seconds."""
        super().show(replace(event, wall_s=self.wall_s))

    def describe(self, event: ProgressEvent) -> str:
        return describe(event)

    def facts(self, event: ProgressEvent) -> dict[str, Any]:
        return progress_facts(event)

    def line_state(self, event: ProgressEvent) -> LineState:
        safe = (f"{event.rows_safe:,} safe",) if event.rows_safe < event.rows_total else ()
        return LineState(
            done=event.rows_done,
            total=event.rows_total or None,
            time=clock_text(_wall_s(event)) if event.waiting_for else _time(event),
            waiting_for=event.waiting_for,
            facts=(
                *((event.step,) if event.step else ()),
                *_errors(event),
                *safe,
                _speed(event),
                _replicas(event),
                f"{event.parts_done:,}/{event.parts_total:,} parts",
            ),
        )

    def interrupted(self) -> str:
        """Return the message for a job that was stopped by a signal: which rows are kept."""
        if self.last is None or not self.last.parts_total:
            return "interrupted before the first part was written; run the same command to start again"
        last = self.last
        step = f"in {last.step}, " if last.step else ""
        return (
            f"interrupted: {step}{_count(last.rows_done, 'row')} answered, {last.rows_safe:,} of them safe in "
            f"{last.parts_done:,} of {_count(last.parts_total, 'part')}; run the same command to resume"
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


def describe(event: ProgressEvent) -> str:
    """Return one log line: rows answered and safe, parts, speed, replicas, errors and remaining time."""
    share = f" ({share_text(event.rows_done, event.rows_total)})" if event.rows_total else ""
    safe = f", {event.rows_safe:,} safe" if event.rows_safe < event.rows_total else ""
    rows = f"{event.rows_done:,} of {event.rows_total:,} rows{share}{safe}"
    parts = f"{event.parts_done:,} of {event.parts_total:,} parts"
    step = [event.step] if event.step else []
    return " · ".join([*step, rows, parts, _speed(event), _replicas(event), *_errors(event), _time(event)])


def progress_facts(event: ProgressEvent) -> dict[str, Any]:
    """Return the figures of an event for programs. `eta_s` is null while it is unknown; counts are of all runs, errors
    and tokens of this one.
    """
    eta_s = 0.0 if event.parts_done == event.parts_total else event.eta_s
    return {
        "rows_answered": event.rows_done,
        "rows_safe": event.rows_safe,
        "rows_total": event.rows_total,
        "parts_done": event.parts_done,
        "parts_total": event.parts_total,
        "errors": event.error_rows,
        "tokens": event.prompt_tokens + event.completion_tokens,
        "tokens_per_s": round(_tokens_per_s(event), 1),
        "replicas": event.replicas,
        "replicas_wanted": event.replicas_wanted,
        "eta_s": None if eta_s is None else round(eta_s, 1),
        "elapsed_s": round(_wall_s(event), 1),
        "waiting_for": event.waiting_for,
        "step": event.step,
    }


def clock_text(seconds: float) -> str:
    """Format a duration as `0:07`, `12:30` or `1:02:03`."""
    minutes, secs = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"


def utc_text(moment: datetime | None = None) -> str:
    """A time of the zone UTC, by default the current one, as log lines begin with it: `2026-11-23T01:30:00Z`."""
    return f"{moment or datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _tokens_per_s(event: ProgressEvent) -> float:
    has_ended = event.parts_done == event.parts_total
    recent = None if has_ended else event.recent_tokens_per_s
    return event.tokens_per_s if recent is None else recent


def _speed(event: ProgressEvent) -> str:
    return f"{_tokens_per_s(event):,.0f} tokens/s"


def _replicas(event: ProgressEvent) -> str:
    if event.replicas_wanted:
        return f"{event.replicas:,}/{_count(event.replicas_wanted, 'replica')}"
    return _count(event.replicas, "replica")


def _errors(event: ProgressEvent) -> tuple[str, ...]:
    return (_count(event.error_rows, "error"),) if event.error_rows else ()


def _wall_s(event: ProgressEvent) -> float:
    return event.elapsed_s if event.wall_s is None else event.wall_s


def _time(event: ProgressEvent) -> str:
    if event.parts_done == event.parts_total:
        return f"took {clock_text(_wall_s(event))}"
    if event.waiting_for:
        return f"{clock_text(_wall_s(event))}, {waiting_text(event.waiting_for)}"
    if event.eta_s is None:
        return f"starting, {clock_text(_wall_s(event))}"
    return f"{clock_text(event.eta_s)} left"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
