"""What a classify job has in common with the training of its model: its labels, and its template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tirazh.errors import CheckpointError, StorageError
from tirazh.model.checkpoints.directory import resolve_model
from tirazh.model.checkpoints.task import TASK_FILE, read_task
from tirazh.pipeline.model_cache.index import list_remote
from tirazh.pipeline.model_cache.remote_model import RemoteModel
from tirazh.pipeline.spec import ClassifySpec, JobSpec
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, full_uri, is_remote


def task_folder(model: str, endpoint_url: str | None) -> Path:
    """Return the directory of a model's files about its training. Of one in an object store they are fetched, without
    its weights. Raises what `RemoteModel` raises."""
    if "://" not in model or not is_remote(uri := full_uri(model)):
        return Path(resolve_model(model))
    storage = Storage(endpoint_url)
    return Path(RemoteModel(uri, storage, list_remote(uri, storage).key).tokenizer_dir())


def task_file(model: str, folder: Path) -> str:
    """Return the name of the file for people: that in the store, if the model is in one."""
    return f"{show_uri(model).rstrip('/')}/{TASK_FILE}" if "://" in model else str(folder / TASK_FILE)


def compare_task(spec: JobSpec) -> dict[str, Any] | None:
    """Return the file about the model's training, and which of the job's settings are those in it.

    None when the model has no such file, or when it names no labels.
    """
    if not isinstance(spec, ClassifySpec) or spec.labels is None:
        return None
    try:
        folder = task_folder(spec.model, spec.endpoint_url)
        task = read_task(folder)
    except (CheckpointError, StorageError, OSError):  # nothing was taken from it: then the job would have been refused
        return None
    if task is None or task.labels is None:
        return None
    same = {"labels": dict(task.labels) == dict(spec.labels), "template": task.template == spec.template}
    return {"file": task_file(spec.model, folder)} | same


def task_line(spec: JobSpec) -> str | None:
    """Return the sentence about labels and template of the model that the job uses; None when it uses neither."""
    found = compare_task(spec)
    if found is None or not found["labels"]:
        return None
    what, flags = "the labels", "--labels replaces them"
    if found["template"]:
        what, flags = "the labels and the template", "--labels and --template replace them"
    return f"{what} are those that the model was trained with ({found['file']}); {flags}"
