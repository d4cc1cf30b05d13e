"""Checkpoints of a training run, each a directory like `step-00000500/`.

It holds `state.json` and three safetensors files of unsharded float32 tensors, and gets its final
name only when it is complete and on disk. Any number of workers can read it, without pickle. Imports
torch only where tensors are used.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.files import open_safetensors, read_json
from tirazh.model.checkpoints.writer import TensorSource, write_safetensors

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
_STATE = "state.json"
_NAME = re.compile(r"step-(\d{8,})")
Gather = Callable[[str, str], "Tensor"]


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

        Raises CheckpointError for other shapes.
        """
        opened = {state: open_safetensors(self._file(state)) for state in ("weights", *states)}
        for state, stored in opened.items():
            if {name: each.shape for name, each in stored.items()} != dict(shapes):
                raise CheckpointError(f"{self._file(state)} is damaged or of another model; remove {self.folder}")

        def read(name: str, state: str) -> Tensor:
            stored = opened[state][name]
            return stored.read_box(tuple((0, size) for size in stored.shape))

        return read

    def weight_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Read rows `start:stop` of a trained weight, float32; no other rows are read."""
        stored = open_safetensors(self._file("weights"))[name]
        rest = tuple((0, size) for size in stored.shape[1:])
        return stored.read_box(((start, stop), *rest))

    def _file(self, state: str) -> Path:
        return self.folder / f"{state}.safetensors"


def find_checkpoints(folder: Path) -> list[TrainingCheckpoint]:
    """Return every complete checkpoint, the oldest first."""
    found = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((TrainingCheckpoint(path, int(match[1])) for match, path in found if match), key=lambda c: c.step)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """What a checkpoint stores.

    `gather(name, state)` returns whole tensors; `scalars` are JSON values.
    """

    step: int
    shapes: Mapping[str, tuple[int, ...]]
    states: Sequence[str]
    gather: Gather
    scalars: Mapping[str, Any]


def write_checkpoint(folder: Path, training: TrainingState, *, keep: int) -> None:
    """Write a checkpoint, then remove all but the newest `keep`.

    Gathering a tensor is a collective operation: while one worker calls this, the others call
    `gather_with_writer`.
    """
    target = folder / f"step-{training.step:08}"
    partial = folder / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # left by a worker that was killed while it wrote
    partial.mkdir(parents=True)
    for state in ("weights", *training.states):
        whole = _Gathered(training.gather, state)
        sources = [
            TensorSource(name=name, shape=shape, dtype="float32", read_rows=whole.rows_of(name))
            for name, shape in training.shapes.items()
        ]
        write_safetensors(partial / f"{state}.safetensors", sources, on_bytes=lambda count: None)
    text = json.dumps({"format": FORMAT, "step": training.step} | dict(training.scalars), indent=1)
    with (partial / _STATE).open("w", encoding="utf-8") as file:
        file.write(text)
        # On disk before the rename: after a power cut a named checkpoint must be complete.
        file.flush()
        os.fsync(file.fileno())
    # A rename cannot replace a directory with files in it.
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for old in find_checkpoints(folder)[:-keep]:
        shutil.rmtree(old.folder)


def gather_with_writer(training: TrainingState) -> None:
    """Take part in the gathers of another worker's `write_checkpoint`, in the same order."""
    for state in ("weights", *training.states):
        for name in training.shapes:
            training.gather(name, state)


class _Gathered:
    """Rows of unsharded tensors.

    A tensor is gathered when its first row is read; one is held at a time.
    """

    def __init__(self, gather: Gather, state: str) -> None:
        self._gather = gather
        self._state = state
        self._held: tuple[str, Tensor] | None = None

    def rows_of(self, name: str) -> Callable[[int, int], Tensor]:
        def read(start: int, stop: int) -> Tensor:
            if self._held is None or self._held[0] != name:
                self._held = (name, self._gather(name, self._state))
            return self._held[1][start:stop]

        return read
