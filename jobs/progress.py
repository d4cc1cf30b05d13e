"""What is seen while a job runs: one live bar in a terminal, one line now and then in a log, nothing with -q.

`pipeline.build.run_job` calls `show` with where it is; everything goes to stderr, so that stdout stays the result's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TextIO

if TYPE_CHECKING:
    from pipeline.metrics import ProgressEvent
    from rich.progress import Progress as Bar

Style = Literal["bar", "lines", "quiet"]
LINE_EVERY_S = 10.0


class Progress:
    """Shows a job's progress and remembers the last of it.

    Use it as a context manager and hand `progress.show` to the pipeline. `style` None chooses by what stderr is.
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
        self.last: ProgressEvent | None = None
        self._clock = clock
        self._next_line = clock() + 2.0  # the first line soon: someone is watching whether it started
        self._printed: ProgressEvent | None = None
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

    def show(self, event: ProgressEvent) -> None:
        """Take note of where the job is. Cheap; may be called as often as one likes."""
        self.last = event
        if self.style == "bar":
            self._update_bar(event)
        elif self.style == "lines" and self._clock() >= self._next_line:
            self._next_line = self._clock() + LINE_EVERY_S
            self._print_line(event)

    def interrupted(self) -> str:
        """The sentence for a job that was stopped by a signal."""
        if self.last is None or not self.last.parts_total:
            return "interrupted before the first part was written; run the same command to start again"
        return (
            f"interrupted: {self.last.parts_done} of {self.last.parts_total} parts are written; "
            "run the same command to go on"
        )

    def _print_line(self, event: ProgressEvent) -> None:
        self._printed = event
        print(describe(event), file=self._stream, flush=True)

    def _update_bar(self, event: ProgressEvent) -> None:
        if self._bar is None:
            self._bar, self._task = _start_bar(self._stream)
        facts = " · ".join(_facts(event))
        self._bar.update(self._task, completed=event.rows_done, total=event.rows_total or None, facts=facts)


def describe(event: ProgressEvent) -> str:
    """One line for a log: rows, share, speed, replicas, errors, time left."""
    share = f" ({event.rows_done / event.rows_total:.0%})" if event.rows_total else ""
    rows = f"{event.rows_done:,} of {event.rows_total:,} rows{share}"
    parts = f"{event.parts_done} of {event.parts_total} parts"
    return " · ".join([rows, parts, *_facts(event)])


def time_left_s(event: ProgressEvent) -> float | None:
    """Seconds that the rest will take at the speed so far; None before there is a speed."""
    speed = rows_per_s(event)
    return (event.rows_total - event.rows_done) / speed if speed else None


def rows_per_s(event: ProgressEvent) -> float:
    """Rows that this run has done a second; rows of earlier runs are not counted."""
    fresh = event.rows_done - event.rows_resumed
    return fresh / event.elapsed_s if event.elapsed_s > 0 else 0.0


def clock_text(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:03`."""
    minutes, secs = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"


def _facts(event: ProgressEvent) -> list[str]:
    tokens = event.prompt_tokens + event.completion_tokens
    speed = tokens / event.elapsed_s if event.elapsed_s > 0 else 0.0
    facts = [f"{speed:,.0f} tokens/s", _count(event.replicas, "replica")]
    if event.error_rows:
        facts.append(_count(event.error_rows, "error"))
    left = time_left_s(event)
    facts.append(f"{clock_text(left)} left" if left is not None else f"starting, {clock_text(event.elapsed_s)}")
    return facts


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _start_bar(stream: TextIO) -> tuple[Bar, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    bar = Progress(
        SpinnerColumn(),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        console=Console(file=stream),
        transient=True,
        refresh_per_second=4,
    )
    bar.start()
    return bar, bar.add_task("rows", total=None, facts="starting")
