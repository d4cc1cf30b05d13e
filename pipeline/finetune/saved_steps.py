"""Which step of an unfinished training is saved, for those who watch it."""

from __future__ import annotations

from pathlib import Path

from tirazh.pipeline.finetune.output import TrainingOutput
from tirazh.pipeline.storage.filesystem import full_uri, is_remote

# The step of the newest complete checkpoint in a store, by the output, as this process has uploaded or found it.
_stored: dict[str, int] = {}


def note_saved_step(output: str, step: int) -> None:
    """Remember that the checkpoint of a step is complete in the store. `output` is the URI of the output."""
    _stored[output] = step


def newest_saved_step(output: str) -> int:
    """Return the number of steps in the checkpoint that was written last to the output; 0 without one.

    Of an output in a store it is what this process has noted: a look would cost requests.
    """
    uri = full_uri(output)
    if is_remote(uri):
        return _stored.get(uri, 0)
    folder = TrainingOutput(Path(uri)).trainings
    newest, step = 0.0, 0
    for path in folder.glob("*/checkpoints/step-*"):
        try:
            written = path.stat().st_mtime
            found = int(path.name.split("-")[1])
        except (OSError, ValueError):  # it was removed meanwhile, or is of other origin
            continue
        newest, step = max((newest, step), (written, found))
    return step
