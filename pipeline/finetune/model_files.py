"""Writes what comes out of a training: the model, its adapter, and the labels and template it was trained with.

Everything is derived from the stored request and a checkpoint, so that `tirazh convert` can do the same
for the checkpoint of a training that was stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tirazh.errors import OutputError
from tirazh.model.checkpoints.directory import Checkpoint
from tirazh.model.checkpoints.task import ModelTask, write_task
from tirazh.model.training.adapter import write_adapter
from tirazh.model.training.checkpoint import TrainingCheckpoint
from tirazh.model.training.config import LoraSettings
from tirazh.model.training.export import export_model
from tirazh.pipeline.finetune.output import ADAPTER
from tirazh.pipeline.finetune.spec import FinetuneSpec, Save
from tirazh.pipeline.prompts.source import CLASSIFY_TEMPLATE
from tirazh.pipeline.settings import flag_name

if TYPE_CHECKING:
    from tirazh.model.convert import Progress


def write_model_files(
    folder: Path,
    base: Checkpoint,
    trained: TrainingCheckpoint,
    identity: Mapping[str, Any],
    *,
    dtype: str | None = None,
    save: Save = "merged",
    progress: Progress | None = None,
) -> None:
    """Write the files of a model, an adapter, or both to `folder`.

    `identity` is that of the training's request. Raises CheckpointError when the checkpoint is not one of
    `base`, or has values too large for `dtype`.
    """
    lora = lora_of(identity)
    if lora is not None and save != "merged":
        write_adapter(folder / ADAPTER, base, trained, lora)
    task = task_of(identity)
    if task is not None:
        write_task(folder, task)
    if lora is None or save != "adapter":
        export_model(folder, base, trained, lora=lora, dtype=dtype, progress=progress)


def check_saved(folder: Path, manifest: Mapping[str, Any], spec: FinetuneSpec) -> None:
    """Check that a finished training was saved as `spec` asks. Its checkpoints are gone, so nothing can be added.

    Raises OutputError when it was saved otherwise.
    """
    saved: Mapping[str, Any] = manifest.get("spec") or {}
    for name, wanted in (("save", spec.save), ("save_dtype", spec.save_dtype)):
        if name in saved and saved[name] != wanted:
            raise OutputError(
                f"{folder} holds this training, finished and saved with {flag_name(name)} {saved[name] or 'unset'}, "
                f"and its checkpoints are removed; to save it with {wanted or 'the default'}, train into another "
                "--output"
            )


def lora_of(identity: Mapping[str, Any]) -> LoraSettings | None:
    """Return the LoRA settings of a training; None when it trained all weights."""
    if not identity["lora_rank"]:
        return None
    return LoraSettings(
        rank=identity["lora_rank"], alpha=identity["lora_alpha"], targets=tuple(identity["lora_targets"])
    )


def task_of(identity: Mapping[str, Any]) -> ModelTask | None:
    """Return the labels and the template that a model was trained with; None when it was trained on texts."""
    if identity.get("completion_column") is None:
        return None
    template, column = identity.get("template"), identity.get("prompt_column")
    if column is not None:  # the prompt is a column alone, which classify knows as a template
        if not str(column).isidentifier():
            return None
        template = f"{{{{ {column} }}}}"
    return ModelTask(
        labels=identity.get("labels") or None, template=None if template == CLASSIFY_TEMPLATE else template
    )
