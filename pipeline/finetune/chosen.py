"""Which checkpoint of a training becomes the model, and whether it exists already."""

from __future__ import annotations

from collections.abc import Sequence

from tirazh.errors import JobError
from tirazh.model.training.checkpoint import TrainingCheckpoint
from tirazh.model.training.selection import Entry, Selection


def is_trained(
    checkpoints: Sequence[TrainingCheckpoint], log: Sequence[Entry], *, total_steps: int, selection: Selection
) -> bool:
    """Whether the newest checkpoint is that of the last step, or of the step where evaluations ended the training."""
    if not checkpoints:
        return False
    step = checkpoints[-1].step
    return step in (total_steps, selection.end_step([entry for entry in log if entry["step"] <= step]))


def choose(checkpoints: Sequence[TrainingCheckpoint], log: Sequence[Entry], selection: Selection) -> TrainingCheckpoint:
    """Return the checkpoint that becomes the model. Raises JobError when that of the best evaluation is missing."""
    best = selection.best(log) if selection.keep == "best" else None
    if best is None:
        return checkpoints[-1]
    found = [each for each in checkpoints if each.step == best["step"]]
    if not found:
        folder = checkpoints[-1].folder.parent
        raise JobError(f"the checkpoint of the best evaluation, step {best['step']}, is missing in {folder}")
    return found[0]
