"""Which step of an unfinished training is saved, for those who watch it."""

from __future__ import annotations

from pathlib import Path

from tirazh.pipeline.finetune.output import TrainingOutput
from tirazh.pipeline.storage.filesystem import full_uri


def newest_saved_step(output: str) -> int:
    """Return the number of steps in the checkpoint that was written last to the output; 0 without one."""
    folder = TrainingOutput(Path(full_uri(output))).trainings
    newest, step = 0.0, 0
    for path in folder.glob("*/checkpoints/step-*"):
        try:
            written = path.stat().st_mtime
            found = int(path.name.split("-")[1])
        except (OSError, ValueError):  # it was removed meanwhile, or is of other origin
            continue
        newest, step = max((newest, step), (written, found))
    return step
