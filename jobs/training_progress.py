"""What is seen while a model trains: one live bar in a terminal, one line now and then in a log, nothing with -q."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from jobs.progress import LINE_EVERY_S, Style, clock_text, start_bar

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from pipeline.finetune_progress import TrainingProgress


class TrainingDisplay:
    """Shows a training's progress on stderr and remembers the last of it. `style` None chooses by what stderr is."""

    def __init__(
        self,
        style: Style | None = None,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr
        self.style: Style = style or ("bar" if self._stream.isatty() else "lines")
        self.last: TrainingProgress | None = None
        self._clock = clock
        self._next_line = clock() + 2.0
        self._printed: TrainingProgress | None = None
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

    def show(self, event: TrainingProgress) -> None:
        """Take note of where the training is. Cheap."""
        self.last = event
        if self.style == "bar":
            if self._bar is None:
                self._bar, self._task = start_bar(self._stream)
            facts = " · ".join(_facts(event))
            self._bar.update(self._task, completed=event.step, total=event.total_steps, facts=facts)
        elif self.style == "lines" and self._clock() >= self._next_line:
            self._next_line = self._clock() + LINE_EVERY_S
            self._print_line(event)

    def say(self, text: str) -> None:
        """A line for people; nothing with -q."""
        if self.style != "quiet":
            print(text, file=self._stream, flush=True)

    def interrupted(self) -> str:
        """The sentence for a training that was stopped by a signal."""
        if self.last is None:
            return "interrupted before the first step; run the same command to start again"
        return (
            f"interrupted at step {self.last.step:,} of {self.last.total_steps:,}; run the same command to go on from "
            "the last checkpoint"
        )

    def _print_line(self, event: TrainingProgress) -> None:
        self._printed = event
        print(describe(event), file=self._stream, flush=True)


def describe(event: TrainingProgress) -> str:
    """One line for a log: steps, loss, the last evaluation, speed, time left."""
    share = f"{event.step / event.total_steps:.0%}"
    return " · ".join([f"step {event.step:,} of {event.total_steps:,} ({share})", *_facts(event)])


def _facts(event: TrainingProgress) -> list[str]:
    figures = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in event.figures.items()]
    is_over = event.step == event.total_steps or event.eta_s is None
    left = f"took {clock_text(event.elapsed_s)}" if is_over else f"{clock_text(event.eta_s or 0)} left"
    return [f"loss {event.loss:.3f}", *figures, f"{event.tokens_per_s:,.0f} tokens/s", left]
