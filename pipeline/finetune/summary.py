"""What the log of a training says about it: its losses, its evaluations before and after, and why it stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tirazh.actors.training_failures import WorkerFailure
from tirazh.errors import JobError
from tirazh.model.training.selection import Entry, evaluations, figures
from tirazh.pipeline.storage.secrets import redact

_LOSS_STEPS = 20


class TrainingStopped(JobError):
    """A training ended because a loss, a gradient norm or weights were not finite.

    `changes` are the settings with which the same request continues from the last good checkpoint, empty when there is
    none; `sentence` is the message without them.
    """

    sentence: str = ""
    changes: Mapping[str, Any] = {}


def stopped(reason: str, *, output: str, good: int | None, learning_rate: float) -> TrainingStopped:
    """Return the error for a training that was stopped, with the way to go on from the checkpoint `good`."""
    rate = float(f"{learning_rate / 10:.3g}")
    if good is None:
        return TrainingStopped(
            f"training stopped: {reason}; it has no checkpoint from before that: start again with --overwrite and a "
            f"lower --learning-rate (such as {rate:g}), a longer --warmup-steps or --dtype float32"
        )
    sentence = f"training stopped: {reason}; to go on from step {good}, the last good checkpoint, with a lower rate"
    error = TrainingStopped(f"{sentence}, give the same command with --from {output}@{good} --learning-rate {rate:g}")
    error.sentence, error.changes = sentence, {"from_checkpoint": f"{output}@{good}", "learning_rate": rate}
    return error


def facts_of_log(log: Sequence[Entry], *, first_step: int, step: int) -> dict[str, Any]:
    """Return what the manifest holds of the log, for a model of the step `step`."""
    return {
        "last_step": max(entry["step"] for entry in log),
        "model_step": step,
        **losses_of(log),
        **before_and_after(log, first_step=first_step, step=step),
    }


def facts_of_failures(failures: Sequence[WorkerFailure]) -> dict[str, Any]:
    """Return what the manifest holds of workers that failed: how many groups a death ended, and a clause for each."""
    return {
        "worker_deaths": sum(failure.kind != "failed" for failure in failures),
        "worker_failures": [redact(failure.describe()) for failure in failures],
    }


def losses_of(log: Sequence[Entry]) -> dict[str, float]:
    """Return `first_loss` and `last_loss`, means over equally many steps, and that number, `loss_steps`.

    There are 20 steps in each mean, or half of all steps in a training of fewer than 40.
    """
    losses = [float(entry["loss"]) for entry in log if entry.get("loss") is not None]
    count = min(_LOSS_STEPS, math.ceil(len(losses) / 2))
    first, last = losses[:count], losses[len(losses) - count :]
    return {"first_loss": math.fsum(first) / count, "last_loss": math.fsum(last) / count, "loss_steps": count}


def before_and_after(log: Sequence[Entry], *, first_step: int, step: int) -> dict[str, Any]:
    """Return the evaluations before the first step and of the model's own step, each with its `step`.

    The model's is the last one where its own step was not evaluated.
    """
    found = evaluations(log)
    before: Entry = next((each for each in found if each["step"] == first_step), {})
    last: Entry = found[-1] if found else {}
    after = next((each for each in reversed(found) if each["step"] == step), last)
    seconds = math.fsum(each.get("seconds", 0.0) for each in found)
    return {
        "evaluation": _shown(after),
        "evaluation_before": _shown(before),
        "evaluation_seconds": round(seconds, 1),
        "evaluations": len(found),
    }


def describe_change(found: Mapping[str, Any]) -> str:
    """Return one line about the evaluations before and after the training; empty when one is missing."""
    before, after = found["evaluation_before"], found["evaluation"]
    changes = [
        f"{name.replace('_', ' ')} {_text(before[name])} -> {_text(after[name])}"
        for name in figures(after)
        if name in before
    ]
    return f"Before -> after (step {before['step']:,} -> {after['step']:,}): {', '.join(changes)}" if changes else ""


def _text(value: Any) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _shown(entry: Entry) -> dict[str, Any]:
    return {"step": entry["step"]} | figures(entry) if entry else {}
