"""Replaces the model in an output directory by the one of a completed training.

The new model is written beside the old one first. Then `config.json` is removed, every other file is
replaced by one rename each, and the new `config.json` comes last: a reader finds the old model, then
for a moment none, then the new one, and never files of two models. The same holds for an adapter, of
which `adapter_config.json` is the last file. A run that is killed in that moment is resumed by the same
command, as the checkpoints are removed afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tirazh.model.checkpoints.task import TASK_FILE
from tirazh.model.tokenizer import TOKENIZER_FILES
from tirazh.model.training.config import Fence
from tirazh.pipeline.finetune.output import ADAPTER, CARD, TrainingOutput
from tirazh.pipeline.finetune.work_folder import FORMAT, write_json
from tirazh.pipeline.storage.disk import move_on_disk, write_disk

# The files of a model that another model may lack, as `model_files.py` writes them.
MODEL_FILES = (
    "model*.safetensors*",
    *TOKENIZER_FILES,
    "generation_config.json",
    TASK_FILE,
    CARD,
    f"{ADAPTER}/*.safetensors",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What is published: the directory of the `exported` model, and the files in `_tirazh/`; `kept` is a checkpoint
    that stays there, if one does."""

    exported: Path
    request: Mapping[str, Any]
    log: bytes
    plot: str
    manifest: Mapping[str, Any]
    kept: Path | None = None


def publish_model(output: TrainingOutput, result: Result, fence: Fence) -> None:
    """Replace the model in `output`. Raises JobError when the fence is lost, which is checked before every change."""
    names = sorted(str(path.relative_to(result.exported)) for path in result.exported.rglob("*") if path.is_file())
    for name in names:
        _sync_file(result.exported / name)
    last = [str(path.relative_to(output.folder)) for path in output.last_files]
    moved = [name for name in names if name not in last]
    changes: list[Callable[[], None]] = [
        *(partial(path.unlink, missing_ok=True) for path in output.last_files),
        *(_move(result.exported / name, output.folder / name) for name in moved),
        lambda: _remove_others(output.folder, but=moved),
        lambda: write_json(output.request, {"format": FORMAT} | dict(result.request)),
        lambda: write_disk(str(output.log), result.log),
        lambda: write_disk(str(output.plot), result.plot.encode()),
        *(_move(result.exported / name, output.folder / name) for name in last if name in names),
        # After both: a run that is killed between them is not complete, and exports again.
        lambda: write_json(output.manifest, result.manifest),
        lambda: output.keep_checkpoint(result.kept),
        output.remove_work_files,
    ]
    for change in changes:
        fence.guard(change)


def _move(source: Path, target: Path) -> Callable[[], None]:
    return lambda: move_on_disk(str(source), str(target))


def _remove_others(folder: Path, *, but: Sequence[str]) -> None:
    """Remove the files of the old model that the new one does not have."""
    for pattern in MODEL_FILES:
        for path in folder.glob(pattern):
            if str(path.relative_to(folder)) not in but:
                path.unlink()


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
