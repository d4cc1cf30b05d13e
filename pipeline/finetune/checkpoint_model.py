"""Makes a model of a training's checkpoint: of a training that was stopped, or that ended with an error.

The training's request, two directories above the checkpoint, says from which model it started. It is
checked like any file of others: it may have been copied or changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tirazh.errors import CheckpointError, RequestError, TirazhError
from tirazh.model.checkpoints.directory import Checkpoint, ModelSummary, describe, open_checkpoint
from tirazh.model.checkpoints.files import read_json
from tirazh.model.config import ModelSettings
from tirazh.model.convert import check_dtype, check_target, removed_on_failure
from tirazh.model.training.checkpoint import TrainingCheckpoint, find_checkpoints
from tirazh.pipeline.finetune.identity import training_id
from tirazh.pipeline.finetune.model_files import write_model_files
from tirazh.pipeline.finetune.output import TrainingOutput
from tirazh.pipeline.finetune.work_folder import FORMAT, WorkFolder


@dataclass(frozen=True, slots=True)
class StoppedTraining:
    """A checkpoint, and the identity of the training that wrote it."""

    checkpoint: TrainingCheckpoint
    identity: Mapping[str, Any]


def find_stopped(path: str) -> StoppedTraining | None:
    """Return the training checkpoint `path`, or the newest one in the output of a training without a model.

    None when `path` is neither. Raises CheckpointError for a checkpoint without its training's request, and
    RequestError when the output holds checkpoints of several trainings.
    """
    folder = Path(path).expanduser().absolute()
    if (folder / "state.json").is_file() and (folder / "weights.safetensors").is_file():
        return _stopped(folder)
    output = TrainingOutput(folder)
    if output.config.is_file() or not output.trainings.is_dir():
        return None
    newest: dict[str, Path] = {}
    for work in sorted(output.trainings.iterdir()):
        if WorkFolder(work).request.is_file():
            found = find_checkpoints(WorkFolder(work).checkpoints, str(_read_request(WorkFolder(work))["training"]))
            newest |= {work.name: found[-1].folder} if found else {}
    if not newest:
        raise CheckpointError(f"{folder} holds a training without a checkpoint; run its command again to go on")
    if len(newest) > 1:
        places = ", ".join(map(str, newest.values()))
        raise RequestError(f"{folder} holds checkpoints of several trainings; give one of them: {places}")
    return _stopped(next(iter(newest.values())))


def convert_stopped(
    stopped: StoppedTraining,
    target: str,
    *,
    dtype: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ModelSummary:
    """Write the model of a checkpoint, as its training would have, to the new directory `target`.

    Returns the summary of the new directory. Raises CheckpointError when the base model is gone or has
    changed, OutputError when the target is not empty or the disk too small, and RequestError for a `dtype`
    that does not exist.
    """
    check_dtype(dtype)
    base = _open_base(stopped)
    folder = Path(target).expanduser()
    check_target(folder, base.weight_bytes)
    with removed_on_failure(folder):
        write_model_files(folder, base, stopped.checkpoint, stopped.identity, dtype=dtype, progress=progress)
    return describe(str(folder))


def _stopped(folder: Path) -> StoppedTraining:
    request = _read_request(WorkFolder(folder.parent.parent))
    found = find_checkpoints(folder.parent, request["training"])
    checkpoint = next((each for each in found if each.folder == folder), None)
    if checkpoint is None:
        raise CheckpointError(f"{folder} is not a checkpoint of the training in {folder.parent.parent}; it was renamed")
    return StoppedTraining(checkpoint, request["identity"])


def _read_request(work: WorkFolder) -> dict[str, Any]:
    if not work.request.is_file():
        raise CheckpointError(
            f"{work.request} is missing: it says from which model the training started; keep checkpoints in the "
            "directory of their training"
        )
    values = read_json(work.request)
    is_whole = isinstance(values.get("identity"), dict) and isinstance(values.get("training"), str)
    if not is_whole or values.get("format") != FORMAT or values["training"] != training_id(values):
        raise CheckpointError(f"{work.request} is damaged or of another version of tirazh")
    return values


def _open_base(stopped: StoppedTraining) -> Checkpoint:
    """Open the model from which the training started. Raises CheckpointError when it is another one now."""
    identity = stopped.identity
    try:
        settings = ModelSettings(**{each.name: identity.get(each.name) for each in fields(ModelSettings)})
        base = open_checkpoint(str(identity["model"]), settings)
        fingerprint = identity["model_fingerprint"]
    except (TirazhError, KeyError, TypeError) as error:
        raise CheckpointError(f"the model from which {stopped.checkpoint.folder} was trained: {error}") from error
    if base.config is None or base.fingerprint != fingerprint:
        raise CheckpointError(
            f"{identity['model']} has other weights than when the training in {stopped.checkpoint.folder} started"
        )
    return base
