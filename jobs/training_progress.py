"""Progress display of a training run: steps, loss, evaluation, speed and remaining time."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tirazh.jobs.progress import Display, clock_text
from tirazh.jobs.terminal.live_line import LineState

if TYPE_CHECKING:
    from tirazh.pipeline.finetune.progress import TrainingProgress


class TrainingDisplay(Display["TrainingProgress"]):
    """Shows the progress of a training run."""

    def describe(self, event: TrainingProgress) -> str:
        return describe(event)

    def facts(self, event: TrainingProgress) -> dict[str, Any]:
        return {name: value for name, value in asdict(event).items() if name != "entries"}

    def line_state(self, event: TrainingProgress) -> LineState:
        *facts, time = _facts(event)
        return LineState(done=event.step, total=event.total_steps, time=time, facts=tuple(facts))

    def interrupted(self) -> str:
        """Return the message for a training run that was stopped by a signal."""
        if self.last is None:
            return "interrupted before the first step; run the same command to start again"
        return (
            f"interrupted at step {self.last.step:,} of {self.last.total_steps:,}; run the same command to resume from "
            "the last checkpoint"
        )


def describe(event: TrainingProgress) -> str:
    """Return one log line: steps, loss, the last evaluation, speed and remaining time."""
    share = f"{event.step / event.total_steps:.0%}"
    return " · ".join([f"step {event.step:,} of {event.total_steps:,} ({share})", *_facts(event)])


def _facts(event: TrainingProgress) -> list[str]:
    figures = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in event.figures.items()]
    if figures and event.figures_step is not None:
        figures[-1] += f" (step {event.figures_step:,})"
    mean = f" (mean of {event.loss_steps})" if event.loss_steps > 1 else ""
    is_over = event.step == event.total_steps or event.eta_s is None
    left = f"took {clock_text(event.elapsed_s)}" if is_over else f"{clock_text(event.eta_s or 0)} left"
    return [f"loss {event.loss:.3f}{mean}", *figures, f"{event.tokens_per_s:,.0f} tokens/s", left]
