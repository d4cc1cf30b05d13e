"""Exports the last checkpoint of a training run as a model directory for `classify` and `generate`.

The tensors are streamed: memory stays at some megabytes for any model. LoRA matrices are merged
into the weights that they adapt. Imports torch only where tensors are used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.directory import Checkpoint
from tirazh.model.checkpoints.writer import TensorSource
from tirazh.model.config import expected_shapes
from tirazh.model.convert import write_model
from tirazh.model.training.checkpoint import TrainingCheckpoint
from tirazh.model.training.config import LoraSettings

if TYPE_CHECKING:
    from torch import Tensor


def export_model(
    folder: Path, base: Checkpoint, trained: TrainingCheckpoint, *, lora: LoraSettings | None, dtype: str | None
) -> None:
    """Write the trained model to `folder`, in `dtype` or in the stored dtypes of `base`.

    Raises CheckpointError when the checkpoint is of another model, or has values too large for the
    dtype.
    """
    assert base.config is not None
    shapes = expected_shapes(base.config)
    found = trained.shapes()
    if lora is None and found != shapes:
        raise CheckpointError(f"{trained.folder} is damaged or of another model; remove it")
    read = partial(_merged_rows, base, trained, lora, frozenset(found)) if lora is not None else trained.weight_rows
    sources = [
        TensorSource(name=name, shape=shape, dtype=dtype or base.dtype(name), read_rows=_rows(read, name))
        for name, shape in shapes.items()
    ]
    write_model(folder, base, sources)


def _rows(read: Callable[[str, int, int], Tensor], name: str) -> Callable[[int, int], Tensor]:
    return lambda start, stop: read(name, start, stop)


def _merged_rows(
    base: Checkpoint,
    trained: TrainingCheckpoint,
    lora: LoraSettings,
    names: frozenset[str],
    name: str,
    start: int,
    stop: int,
) -> Tensor:
    """Return rows of a base weight, plus `alpha / rank * B @ A` where LoRA adapted it."""
    rows = base.read(name, 0, start, stop).float()
    stem = name.removesuffix(".weight")
    # peft's names: A maps the inputs down to the rank, B maps the rank up to the outputs.
    down, up = (f"{stem}.lora_{letter}.default.weight" for letter in "AB")
    if down not in names:
        return rows
    update = trained.weight_rows(up, start, stop) @ trained.weight_rows(down, 0, lora.rank)
    return rows + lora.alpha / lora.rank * update
