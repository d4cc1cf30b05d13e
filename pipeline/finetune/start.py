"""Where a training starts that continues from a checkpoint of another one: `--from OUTPUT` or `--from OUTPUT@STEP`.

With the same data, seed and batch size it continues in the order of the other training: its first step follows that of
the checkpoint, and its number of steps counts from the beginning. With other data it begins at step 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tirazh.errors import OutputError, RequestError
from tirazh.model.training.checkpoint import TrainingCheckpoint, find_checkpoints
from tirazh.model.training.config import StartCheckpoint
from tirazh.model.training.log import read_log
from tirazh.pipeline.finetune.identity import find_differences
from tirazh.pipeline.finetune.output import TrainingOutput
from tirazh.pipeline.finetune.remote.checkpoints import StoredCheckpoints
from tirazh.pipeline.finetune.remote.output import StoredOutput, open_output
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.finetune.work_folder import WorkFolder
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, full_uri, is_remote

# What decides which sequences a step takes.
_ORDER = (
    *("files", "input_weights", "text_column", "prompt_column", "completion_column", "messages_column", "template"),
    *("labels", "truncate", "limit", "packing", "seq_length", "tokenizer", "seed", "batch_size"),
)
# What decides which weights a checkpoint holds.
_WEIGHTS = {"lora_rank": "--lora-rank", "lora_alpha": "--lora-alpha", "lora_targets": "--lora-targets"}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingStart:
    """`given` is the value of --from with an absolute path or a URI. `folder` is the checkpoint there, of the training
    with the id `training` and its step `step`; the new training begins after `first_step` steps."""

    given: str
    training: str
    folder: str
    step: int
    first_step: int

    def to_json(self) -> dict[str, Any]:
        """Return what the stored request holds, from which `find_start` reads it again."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Found:
    """A checkpoint, the stored request of its training, and when that last wrote to its log (0 in a store).

    `folder` is a path or a URI.
    """

    request: Mapping[str, Any]
    folder: str
    step: int
    is_good: bool
    time: float


def find_start(
    spec: FinetuneSpec, output: TrainingOutput, identity: Mapping[str, Any], storage: Storage
) -> TrainingStart:
    """Find the checkpoint that --from names in `storage`, for a request with this `identity` (without --from) and
    `output`.

    A training that has started keeps its checkpoint: the same request finds the one that it began with. Raises
    OutputError when there is none, and RequestError when it does not fit the request.
    """
    assert spec.from_checkpoint is not None
    path, step = _parse(spec.from_checkpoint)
    text = path if step is None else f"{path}@{step}"
    for request in output.requests():
        saved = request.get("start")
        own = {name: value for name, value in request["identity"].items() if name != "from_checkpoint"}
        if saved is not None and saved["given"] == text and not find_differences(own, identity):
            return TrainingStart(**saved)
    found = _choose(path, step, open_output(path, storage, spec.work_dir))
    _check_model(spec, found.request["identity"], identity)
    number = found.step
    continues = _order(found.request["identity"]) == _order(identity)
    if continues and spec.max_steps is not None and spec.max_steps <= number:
        raise RequestError(
            f"--max-steps {spec.max_steps} counts from the beginning of the training, and {text} is at step {number}; "
            "give more"
        )
    return TrainingStart(
        given=text,
        training=found.request["training"],
        folder=found.folder,
        step=number,
        first_step=number if continues else 0,
    )


def newest_good(checkpoints: Sequence[TrainingCheckpoint], log: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the step of the newest checkpoint that a training can go on from; None when there is none.

    When a step was stopped by a loss or a norm that is not finite, the weights before it gave that figure: a
    checkpoint of these would give it again.
    """
    good = [each.step for each in checkpoints if _is_good(each.step, log)]
    return max(good, default=None)


def start_checkpoint(
    start: Mapping[str, Any] | None, work: WorkFolder, *, fresh_optimizer: bool
) -> StartCheckpoint | None:
    """Return what the workers read, for the `start` of a stored request: a directory on a disk."""
    if start is None:
        return None
    folder = _fetched(start["folder"], work) if is_remote(start["folder"]) else start["folder"]
    return StartCheckpoint(folder=str(folder), step=start["step"], with_optimizer=not fresh_optimizer)


def bring_start(start: Mapping[str, Any] | None, work: WorkFolder, storage: Storage) -> None:
    """Check that the checkpoint to start from is there, and fetch one in a store into the work files.

    Called where the training has no checkpoint of its own. Raises OutputError when it is gone.
    """
    if start is None:
        return
    folder, is_there = start["folder"], False
    if is_remote(folder):
        stored = StoredCheckpoints(storage, folder.rpartition("/")[0], start["training"])
        for each in stored.find():
            is_there = is_there or each.uri == folder
            if each.uri == folder and not _fetched(folder, work).is_dir():
                stored.fetch(each, WorkFolder(work.start), with_log=False)
    if not is_there and not Path(folder).is_dir():
        raise OutputError(f"--from {start['given']}: its checkpoint {show_uri(folder)} was removed; name another one")


def _fetched(uri: str, work: WorkFolder) -> Path:
    """Where a checkpoint of a store lies among the work files, once it is fetched."""
    return WorkFolder(work.start).checkpoints / uri.rpartition("/")[2].rpartition(".")[0]


def check_steps(first_step: int, total_steps: int) -> None:
    """Raise RequestError when a training of so many steps has none after its checkpoint, which is of `first_step`."""
    if first_step and total_steps <= first_step:
        raise RequestError(
            f"the training has {total_steps:,} steps, counted from the beginning, and the checkpoint of --from is of "
            f"step {first_step:,}; give more --epochs or --max-steps"
        )


def describe_start(start: Mapping[str, Any], *, fresh_optimizer: bool) -> str:
    """Return one line about where a training starts."""
    optimizer = "the weights, with a new optimizer," if fresh_optimizer else "the weights and the optimizer"
    place = (
        f"its first step is {start['first_step'] + 1:,}, in the same order of the data"
        if start["first_step"]
        else "it begins at step 0, as the data, the seed or the batches differ"
    )
    return f"It starts from {optimizer} of {start['given']}, step {start['step']:,}; {place}"


def names_output(spec: FinetuneSpec, output: str) -> bool:
    """Whether --from names a training in the output itself."""
    return spec.from_checkpoint is not None and _parse(spec.from_checkpoint)[0] == output


def _is_good(step: int, log: Sequence[Mapping[str, Any]]) -> bool:
    return not (log and "stopped" in log[-1]) or step < log[-1]["step"] - 1


def _parse(text: str) -> tuple[str, int | None]:
    """Return the absolute path of an output and the step, None for the newest checkpoint."""
    path, sign, number = text.rpartition("@")
    if not (sign and path and number.isdecimal()) or Path(text).exists():
        path, number = text, ""
    return full_uri(path), int(number) if number else None


def _checkpoints(output: TrainingOutput) -> list[_Found]:
    found = []
    for request in output.requests():
        work, training = output.work(request["training"]), request["training"]
        if isinstance(output, StoredOutput):
            log = output.read_log(training)
            found += [
                _Found(request, each.uri, each.step, _is_good(each.step, log), 0.0)
                for stored in (output.stored(training), output.stored_kept(training))
                for each in stored.find()
            ]
            continue
        log = read_log(work.log)
        for folder in (work.checkpoints, output.checkpoints):
            for checkpoint in find_checkpoints(folder, request["training"]):
                time = (work.log if log else folder).stat().st_mtime
                is_good = _is_good(checkpoint.step, log)
                found.append(_Found(request, str(checkpoint.folder), checkpoint.step, is_good, time))
    return found


def _choose(path: str, step: int | None, output: TrainingOutput) -> _Found:
    """Return the newest good checkpoint, or that of `step`, of the training that ran last."""
    found = _checkpoints(output)
    fitting = [each for each in found if (each.is_good if step is None else each.step == step)]
    if fitting:
        return max(fitting, key=lambda each: (each.time, each.step))
    if found:
        steps = ", ".join(map(str, sorted({each.step for each in found})))
        if step is None:
            raise OutputError(
                f"--from {path}: the loss was not finite right after its only checkpoint ({steps}); start again with "
                "other settings"
            )
        raise OutputError(f"--from {path}@{step}: there is no checkpoint of step {step}, but of {steps}")
    if output.is_exported:
        raise OutputError(
            f"--from {path}: its training is complete and kept no checkpoint (--keep-last-checkpoint does); give "
            "--model with this directory to start from its weights"
        )
    raise OutputError(f"--from {path}: there is no training checkpoint; give the --output of a training")


def _check_model(spec: FinetuneSpec, theirs: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    if theirs["model_fingerprint"] != own["model_fingerprint"]:
        raise RequestError(f"--from is a training of another model; give its --model, {theirs['model']}")
    names = _WEIGHTS if spec.lora_rank or theirs["lora_rank"] else ()
    for name in names:
        if _plain(theirs[name]) != _plain(own[name]):
            shown = " ".join(map(str, theirs[name])) if isinstance(theirs[name], list) else theirs[name]
            raise RequestError(f"--from is a training with {_WEIGHTS[name]} {shown}; give the same")


def _order(identity: Mapping[str, Any]) -> list[Any]:
    return [_plain(identity.get(name)) for name in _ORDER]


def _plain(value: Any) -> Any:
    """The value as JSON has it: lists for tuples."""
    return json.loads(json.dumps(value))
