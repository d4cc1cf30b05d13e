"""The log of a submitted job: lines for people, and lines of JSON with the figures of the job.

The driver prints a figure line every ten seconds, so the last figures of a driver that died are known, too.
`tirazh logs` leaves these lines out.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from tirazh.jobs.progress import LINE_EVERY_S, Display, Event, JobProgressDisplay, Style, utc_text
from tirazh.jobs.training_progress import TrainingDisplay

if TYPE_CHECKING:
    from tirazh.pipeline.execution.metrics import ProgressEvent
    from tirazh.pipeline.finetune.progress import TrainingProgress

MARK = "tirazh-progress "
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# What the figures say besides numbers: the checks of the cluster have passed, or the driver was told to stop.
READY, STOPPING = "ready", "stopping"


class FigureLines(Display[Event]):
    """A display that prints figure lines besides what a display prints."""

    _next_figures = 0.0

    @abstractmethod
    def figures(self, event: Event) -> dict[str, Any]:
        """Return the figures of an event for `tirazh status`."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self.last is not None:
            self.print_figures(self.figures(self.last))

    def show(self, event: Event) -> None:
        """Show an event, and print its figures if the last ones are LINE_EVERY_S seconds old."""
        super().show(event)
        if self._clock() >= self._next_figures:
            self._next_figures = self._clock() + LINE_EVERY_S
            self.print_figures(self.figures(event))

    def print_figures(self, figures: dict[str, Any]) -> None:
        """Print one figure line, with the time."""
        now = utc_text()
        print(f"{MARK}{json.dumps({'time': now} | figures)}", file=self._stream, flush=True)


class LoggedProgress(FigureLines["ProgressEvent"], JobProgressDisplay):
    """The display of a job over rows."""

    def figures(self, event: ProgressEvent) -> dict[str, Any]:
        return event_figures(event)

    def interrupted(self) -> str:
        """Return the message for a job that was stopped: which rows are answered, and which are safe."""
        if self.last is None or not self.last.parts_total:
            return super().interrupted()
        return f"{stopped_text(event_figures(self.last))}; `tirazh resume` makes the rest"


class LoggedTraining(FigureLines["TrainingProgress"], TrainingDisplay):
    """The display of a training. `saved_step` returns the step of its newest checkpoint, 0 without one."""

    def __init__(self, style: Style | None, *, stream: TextIO, saved_step: Callable[[], int]) -> None:
        super().__init__(style, stream=stream)
        self._saved_step = saved_step

    def figures(self, event: TrainingProgress) -> dict[str, Any]:
        return training_figures(event, saved=self._saved_step())

    def interrupted(self) -> str:
        """Return the message for a training that was stopped: how far it came, and what is saved."""
        if self.last is None:
            return "stopped before the first step; `tirazh resume` starts it again"
        return f"{stopped_text(self.figures(self.last))}; `tirazh resume` goes on from it"


def event_figures(event: ProgressEvent) -> dict[str, Any]:
    """Return the figures of an event. `rows` are answered, `rows_safe` are in written parts."""
    figures: dict[str, Any] = {
        "rows": event.rows_done,
        "rows_safe": event.rows_safe,
        "rows_total": event.rows_total,
        "parts": event.parts_done,
        "parts_total": event.parts_total,
        "errors": event.error_rows,
        "eta_s": None if event.eta_s is None else round(event.eta_s, 1),
        "tokens_per_s": round(event.tokens_per_s, 1),
        "replicas": event.replicas,
    }
    return figures | ({"step": event.step} if event.step else {})


def training_figures(event: TrainingProgress, *, saved: int) -> dict[str, Any]:
    """Return the figures of an event of a training, whose newest checkpoint is that of step `saved`."""
    return {
        "steps": event.step,
        "steps_saved": saved,
        "steps_total": event.total_steps,
        "loss": round(event.loss, 4),
        "evaluation": {name: round(value, 4) for name, value in event.figures.items()},
        "eta_s": None if event.eta_s is None else round(event.eta_s, 1),
        "tokens_per_s": round(event.tokens_per_s, 1),
    }


def stopped_text(figures: dict[str, Any], *, is_training: bool = False) -> str:
    """Return `stopped: 133 rows answered, 120 safe in 12 of 76 parts`, or the like about a training."""
    if "steps" in figures:
        saved = figures["steps_saved"]
        checkpoint = f"the checkpoint of step {saved:,} is saved" if saved else "no checkpoint is saved"
        return f"stopped at step {figures['steps']:,} of {figures['steps_total']:,}: {checkpoint}"
    if "rows" not in figures:
        return f"stopped before the first {'step' if is_training else 'row was answered'}"
    return (
        f"stopped: {figures['rows']:,} rows answered, {figures['rows_safe']:,} safe in {figures['parts']:,} of "
        f"{figures['parts_total']:,} parts"
    )


def last_figures(log: str) -> dict[str, Any]:
    """Return what the figure lines of a log say, later ones over earlier ones; {} without any."""
    figures: dict[str, Any] = {}
    for line in log.splitlines():
        if line.startswith(MARK):
            try:
                found = json.loads(line[len(MARK) :])
            except ValueError:  # cut: the driver was killed
                continue
            figures |= found if isinstance(found, dict) else {}
    return figures


def text_of(log: str) -> str:
    """Return a log without its figure lines, and without the colours of Ray's own warnings."""
    return "".join(_COLOUR.sub("", line) for line in log.splitlines(keepends=True) if not line.startswith(MARK))


class LogPrinter:
    """Passes on the new lines of a log that is fetched whole again and again, without its figure lines."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write, self._printed = write, 0

    def show(self, log: str, *, is_all: bool = False) -> None:
        """Write what is new, up to the last whole line; with `is_all` to the end."""
        if len(log) < self._printed:  # the log of a new run of the job
            self._printed = 0
        end = len(log) if is_all else log.rfind("\n") + 1
        if end > self._printed:
            self._write(text_of(log[self._printed : end]))
            self._printed = end
