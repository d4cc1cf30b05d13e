"""What is seen while a model trains: one live bar in a terminal, one line now and then in a log, nothing with -q."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tirazh.jobs.progress import Display, clock_text

if TYPE_CHECKING:
    from tirazh.pipeline.finetune.progress import TrainingProgress


class TrainingDisplay(Display["TrainingProgress"]):
    """A training's: steps, loss and figures."""

    def describe(self, event: TrainingProgress) -> str:
        return describe(event)

    def bar_state(self, event: TrainingProgress) -> tuple[int, int | None, list[str]]:
        return event.step, event.total_steps, _facts(event)

    def interrupted(self) -> str:
        """The sentence for a training that was stopped by a signal."""
        if self.last is None:
            return "interrupted before the first step; run the same command to start again"
        return (
            f"interrupted at step {self.last.step:,} of {self.last.total_steps:,}; run the same command to go on from "
            "the last checkpoint"
        )


def describe(event: TrainingProgress) -> str:
    """One line for a log: steps, loss, the last evaluation, speed, time left."""
    share = f"{event.step / event.total_steps:.0%}"
    return " · ".join([f"step {event.step:,} of {event.total_steps:,} ({share})", *_facts(event)])


def _facts(event: TrainingProgress) -> list[str]:
    figures = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in event.figures.items()]
    is_over = event.step == event.total_steps or event.eta_s is None
    left = f"took {clock_text(event.elapsed_s)}" if is_over else f"{clock_text(event.eta_s or 0)} left"
    return [f"loss {event.loss:.3f}", *figures, f"{event.tokens_per_s:,.0f} tokens/s", left]
