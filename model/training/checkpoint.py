"""Checkpoints of a training, each a directory like `step-00000500-5f3c9a01/`.

The name ends with the first 8 hex digits of the training's id, and `state.json` holds all of it: the
checkpoint of another training in the same directory is neither read nor removed. Three safetensors
files hold unsharded float32 tensors. A checkpoint gets its final name only when it is complete and
on disk, and is never replaced. Any number of workers can read it, without pickle. Imports torch only
where tensors are used.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.files import open_safetensors, read_json
from tirazh.model.checkpoints.writer import TensorSource, sync_directory, write_safetensors
from tirazh.model.training.config import Fence

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2
_STATE = "state.json"
_NAME = re.compile(r"step-(\d{8,})-([0-9a-f]{8})")
# What a worker that was killed leaves behind: a checkpoint that it was writing, or removing.
_LEFT_BEHIND = re.compile(r"\.step-\d{8,}-([0-9a-f]{8})\.[0-9a-f]{32}\.partial")
Gather = Callable[[str, str], "Tensor"]


class NonFiniteState(CheckpointError):
    """Weights or optimizer state are not finite: nothing can be trained from them."""


@dataclass(frozen=True, slots=True)
class TrainingCheckpoint:
    """A complete checkpoint: the state of the training run after `step` steps."""

    folder: Path
    step: int

    def state(self) -> dict[str, Any]:
        """Read the values that are not tensors. Raises CheckpointError when they are damaged."""
        values = read_json(self.folder / _STATE)
        if values.get("format") != FORMAT or values.get("step") != self.step:
            raise CheckpointError(f"{self.folder / _STATE} is damaged or of another version; remove {self.folder}")
        return values

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the trained weights by name."""
        return {name: stored.shape for name, stored in open_safetensors(self._file("weights")).items()}

    def reader(self, shapes: Mapping[str, tuple[int, ...]], states: Sequence[str]) -> Gather:
        """Return `read(name, state)` for a model of these shapes.

        Raises CheckpointError for other shapes; `read` raises NonFiniteState for values that are not finite.
        """
        opened = {state: open_safetensors(self._file(state)) for state in ("weights", *states)}
        for state, stored in opened.items():
            if {name: each.shape for name, each in stored.items()} != dict(shapes):
                raise CheckpointError(f"{self._file(state)} is damaged or of another model; remove {self.folder}")

        def read(name: str, state: str) -> Tensor:
            stored = opened[state][name]
            whole = stored.read_box(tuple((0, size) for size in stored.shape))
            if not _is_finite(whole):
                raise NonFiniteState(
                    f"the checkpoint {self.folder} holds values that are not finite in {name}; remove it, or give "
                    "--from with an earlier step"
                )
            return whole

        return read

    def weight_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Read rows `start:stop` of a trained weight, float32; no other rows are read."""
        return self.weight_part(name, 0, start, stop)

    def weight_part(self, name: str, dim: int, start: int, stop: int) -> Tensor:
        """Read `start:stop` along `dim` of a trained weight, float32; nothing else is read."""
        stored = open_safetensors(self._file("weights"))[name]
        bounds = [(0, size) for size in stored.shape]
        bounds[dim] = (start, stop)
        return stored.read_box(tuple(bounds))

    def _file(self, state: str) -> Path:
        return self.folder / f"{state}.safetensors"


def find_checkpoints(folder: Path, training: str) -> list[TrainingCheckpoint]:
    """Return the complete checkpoints of the training with this id, the oldest first.

    Raises CheckpointError when the state of one of them is damaged.
    """
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match is not None and match[2] == _short(training):
            checkpoint = TrainingCheckpoint(path, int(match[1]))
            if checkpoint.state().get("training") == training:
                found.append(checkpoint)
    return sorted(found, key=lambda each: each.step)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """What a checkpoint stores.

    `training` is the training's id, of at least 8 hex digits. `gather(name, state)` returns whole
    tensors; `scalars` are JSON values.
    """

    training: str
    step: int
    shapes: Mapping[str, tuple[int, ...]]
    states: Sequence[str]
    gather: Gather
    scalars: Mapping[str, Any]


def write_checkpoint(
    folder: Path, training: TrainingState, *, keep: int, best: int | None = None, fence: Fence | None = None
) -> None:
    """Write a checkpoint, then remove all but the training's newest `keep` and that of the step `best`.

    Gathering a tensor is a collective operation: while one worker calls this, the others call
    `gather_with_writer`. Raises JobError when `fence` is lost, and NonFiniteState, after all tensors are gathered, when
    one of them is not finite; then it publishes and removes nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _perform(lambda: _remove_left_behind(folder, training.training), fence)
    target = folder / f"step-{training.step:08}-{_short(training.training)}"
    partial = _hidden(target)
    partial.mkdir()
    try:
        _write_files(partial, training)
        _perform(lambda: _publish(partial, target), fence)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _perform(lambda: _remove_older(folder, training.training, keep, best), fence)


def _write_files(partial: Path, training: TrainingState) -> None:
    bad = []
    for state in ("weights", *training.states):
        whole = _Gathered(training.gather, state)
        sources = [
            TensorSource(name=name, shape=shape, dtype="float32", read_rows=whole.rows_of(name))
            for name, shape in training.shapes.items()
        ]
        write_safetensors(partial / f"{state}.safetensors", sources, on_bytes=lambda count: None)
        bad += whole.not_finite
    if bad:
        raise NonFiniteState(f"{bad[0]} is not finite after step {training.step}, so no checkpoint of it is written")
    names = {"format": FORMAT, "training": training.training, "step": training.step}
    text = json.dumps(names | dict(training.scalars), indent=1)
    with (partial / _STATE).open("w", encoding="utf-8") as file:
        file.write(text)
        # On disk before the rename: after a power cut a named checkpoint must be complete.
        file.flush()
        os.fsync(file.fileno())
    sync_directory(partial)


def _publish(partial: Path, target: Path) -> None:
    """Give a complete checkpoint its name. One that exists is of the same training and step, and stays."""
    try:
        partial.rename(target)
    except OSError as error:  # a rename does not replace a directory with files in it
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
    sync_directory(target.parent)


def _remove_older(folder: Path, training: str, keep: int, best: int | None) -> None:
    for old in find_checkpoints(folder, training)[:-keep]:
        if old.step == best:
            continue
        removed = _hidden(old.folder)
        old.folder.rename(removed)  # first, so that a named checkpoint is never a partial one
        shutil.rmtree(removed)


def _remove_left_behind(folder: Path, training: str) -> None:
    for path in folder.iterdir():
        match = _LEFT_BEHIND.fullmatch(path.name)
        if match is not None and match[1] == _short(training):
            shutil.rmtree(path, ignore_errors=True)


def _hidden(checkpoint: Path) -> Path:
    """Return a new temporary name: two runs never write to the same directory."""
    return checkpoint.with_name(f".{checkpoint.name}.{uuid4().hex}.partial")


def _perform(action: Callable[[], None], fence: Fence | None) -> None:
    if fence is None:
        action()
    else:
        fence.guard(action)


def _short(training: str) -> str:
    return training[:8]


def gather_with_writer(training: TrainingState) -> None:
    """Take part in the gathers of another worker's `write_checkpoint`, in the same order."""
    for state in ("weights", *training.states):
        for name in training.shapes:
            training.gather(name, state)


class _Gathered:
    """Rows of unsharded tensors.

    A tensor is gathered when its first row is read; one is held at a time. `not_finite` names those with values that
    are not finite.
    """

    def __init__(self, gather: Gather, state: str) -> None:
        self._gather = gather
        self._state = state
        self._held: tuple[str, Tensor] | None = None
        self.not_finite: list[str] = []

    def rows_of(self, name: str) -> Callable[[int, int], Tensor]:
        def read(start: int, stop: int) -> Tensor:
            if self._held is None or self._held[0] != name:
                self._held = (name, self._gather(name, self._state))
                if not _is_finite(self._held[1]):
                    self.not_finite.append(name)
            return self._held[1][start:stop]

        return read


def _is_finite(tensor: Tensor) -> bool:
    import torch

    return bool(torch.isfinite(tensor).all())
