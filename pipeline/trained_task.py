"""What a classify job has in common with the training of its model: its labels, and its template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.directory import resolve_model
from tirazh.model.checkpoints.task import TASK_FILE, read_task
from tirazh.pipeline.spec import ClassifySpec, JobSpec


def compare_task(spec: JobSpec) -> dict[str, Any] | None:
    """Return the file about the model's training, and which of the job's settings are those in it.

    None when the model has no such file, when it names no labels, or when it is in an object store.
    """
    if not isinstance(spec, ClassifySpec) or spec.labels is None:
        return None
    folder = Path(resolve_model(spec.model))
    try:
        task = read_task(folder)
    except (CheckpointError, OSError):  # nothing was taken from it: then the job would have been refused
        return None
    if task is None or task.labels is None:
        return None
    same = {"labels": dict(task.labels) == dict(spec.labels), "template": task.template == spec.template}
    return {"file": str(folder / TASK_FILE)} | same


def task_line(spec: JobSpec) -> str | None:
    """Return the sentence about labels and template of the model that the job uses; None when it uses neither."""
    found = compare_task(spec)
    if found is None or not found["labels"]:
        return None
    what, flags = "the labels", "--labels replaces them"
    if found["template"]:
        what, flags = "the labels and the template", "--labels and --template replace them"
    return f"{what} are those that the model was trained with ({found['file']}); {flags}"
