"""Replaces the model in an output directory by the one of a completed training.

The new model is written beside the old one first. Then `config.json` is removed, every other file is
replaced by one rename each, and the new `config.json` comes last: a reader finds the old model, then
for a moment none, then the new one, and never files of two models. A run that is killed in that
moment is resumed by the same command, as the checkpoints are removed afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tirazh.model.training.config import Fence
from tirazh.pipeline.finetune.output import TrainingOutput
from tirazh.pipeline.finetune.work_folder import FORMAT, write_json
from tirazh.pipeline.storage.disk import move_on_disk, write_disk


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
    names = sorted(path.name for path in result.exported.iterdir())
    for name in names:
        _sync_file(result.exported / name)
    moved = [name for name in names if name != output.config.name]
    for change in (
        lambda: output.config.unlink(missing_ok=True),
        *(_move(result.exported / name, output.folder / name) for name in moved),
        lambda: _remove_shards(output.folder, but=moved),
        lambda: write_json(output.request, {"format": FORMAT} | dict(result.request)),
        lambda: write_disk(str(output.log), result.log),
        lambda: write_disk(str(output.plot), result.plot.encode()),
        lambda: write_json(output.manifest, result.manifest),
        _move(result.exported / output.config.name, output.config),
        lambda: output.keep_checkpoint(result.kept),
        output.remove_work_files,
    ):
        fence.guard(change)


def _move(source: Path, target: Path) -> Callable[[], None]:
    return lambda: move_on_disk(str(source), str(target))


def _remove_shards(folder: Path, *, but: Sequence[str]) -> None:
    """Remove the weight files of the old model that the new one does not have."""
    for path in folder.glob("model*.safetensors*"):
        if path.name not in but:
            path.unlink()


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
