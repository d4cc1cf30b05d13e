"""Tensors as files hold them, and how ours are put together from slices of them.

A `LazyTensor` is the whole of model-parallel merging, of splitting fused projections and of transposing: our tensor is
a row of `TensorSlice`s along one axis, and reading a slice of it reads just the
boxes of the files that it covers.
Every `checkpoint_<kind>.py` makes plans; `checkpoints/directory.py` hands them out. Imports no torch until a tensor
is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from tirazh.errors import CheckpointError
from tirazh.model.config import ModelConfig, expected_shapes

if TYPE_CHECKING:
    from torch import Tensor

ITEM_SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
Bounds = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """One tensor of one file. `read_box` takes (start, stop) for every dimension and reads no more than that;
    what it returns may share memory with the file."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    read_box: Callable[[Bounds], Tensor]

    def size(self, dim: int) -> int:
        """Length of one dimension. Raises CheckpointError when the tensor has fewer."""
        if dim >= len(self.shape):
            raise CheckpointError(
                f"{self.file}: tensor {self.name} has {len(self.shape)} dimensions, too few for a model weight"
            )
        return self.shape[dim]


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSlice:
    """`start:stop` of a stored tensor along its plan's axis (our axis, when the plan transposes)."""

    tensor: StoredTensor
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LazyTensor:
    """One of our tensors: its pieces, one after another along `axis`; `is_transposed` when files hold it turned."""

    pieces: tuple[TensorSlice, ...]
    axis: int = 0
    is_transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        stored = self.pieces[0].tensor.shape
        sizes = list(reversed(stored) if self.is_transposed else stored)
        sizes[self.axis] = sum(piece.stop - piece.start for piece in self.pieces)
        return tuple(sizes)

    @property
    def dtype(self) -> str:
        """As torch spells it, without `torch.`: "float16"."""
        return self.pieces[0].tensor.dtype

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * ITEM_SIZES[self.dtype]

    def read(self, dim: int | None = None, start: int = 0, stop: int | None = None) -> Tensor:
        """The tensor, or its `start:stop` along `dim`: stored dtype, on the CPU, perhaps sharing the file's memory."""
        import torch

        bounds = [(0, size) for size in self.shape]
        if dim is not None:
            stop = bounds[dim][1] if stop is None else stop
            if not 0 <= start <= stop <= bounds[dim][1]:
                raise ValueError(f"slice {start}:{stop} is outside dimension {dim} of shape {self.shape}")
            bounds[dim] = (start, stop)
        boxes = [self._read_piece(piece, bounds, span) for piece, span in self._overlaps(bounds[self.axis])]
        return boxes[0] if len(boxes) == 1 else torch.cat(boxes, dim=self.axis)

    def _overlaps(self, wanted: tuple[int, int]) -> Iterable[tuple[TensorSlice, tuple[int, int]]]:
        """The pieces that `wanted` (along our axis) covers, each with the span to read of its stored tensor."""
        low, high = wanted
        if low == high:
            yield self.pieces[0], (self.pieces[0].start, self.pieces[0].start)
        offset = 0
        for piece in self.pieces:
            length = piece.stop - piece.start
            first, last = max(low - offset, 0), min(high - offset, length)
            if first < last:
                yield piece, (piece.start + first, piece.start + last)
            offset += length

    def _read_piece(self, piece: TensorSlice, bounds: list[tuple[int, int]], span: tuple[int, int]) -> Tensor:
        box = [*bounds]
        box[self.axis] = span
        if self.is_transposed:
            return piece.tensor.read_box(tuple(reversed(box))).T
        return piece.tensor.read_box(tuple(box))


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What a kind finds in a directory: plans by our names, and the files that hold the weights.
    `config` is None for a model that is not a ruGPT-3; `config_text` then stands for it."""

    kind: str
    config: ModelConfig | None
    plans: Mapping[str, LazyTensor]
    files: tuple[Path, ...]
    config_text: str = ""


def whole(tensors: Iterable[StoredTensor], *, axis: int = 0, is_transposed: bool = False) -> LazyTensor:
    """All of the tensors, one after another along `axis`."""
    stored_axis = 1 - axis if is_transposed else axis
    pieces = tuple(TensorSlice(tensor=tensor, start=0, stop=tensor.size(stored_axis)) for tensor in tensors)
    return LazyTensor(pieces=pieces, axis=axis, is_transposed=is_transposed)


def third(tensors: Iterable[StoredTensor], index: int, *, is_transposed: bool = False) -> LazyTensor:
    """Third `index` of each tensor (query, key or value of a fused projection), one after another as our rows."""
    pieces = []
    for tensor in tensors:
        rows = tensor.size(1 if is_transposed else 0)
        if rows % 3:
            raise CheckpointError(f"{tensor.file}: {tensor.name} has {rows} rows, not three equal parts for q, k and v")
        pieces.append(TensorSlice(tensor=tensor, start=index * rows // 3, stop=(index + 1) * rows // 3))
    return LazyTensor(pieces=tuple(pieces), is_transposed=is_transposed)


def check_plans(plans: Mapping[str, LazyTensor], config: ModelConfig) -> None:
    """Raise CheckpointError unless the plans give every weight of the model, in its shape, as plain numbers."""
    for name, shape in expected_shapes(config).items():
        plan = plans[name]
        first = plan.pieces[0].tensor
        kinds = {piece.tensor.dtype for piece in plan.pieces}
        if len(kinds) > 1 or first.dtype not in ITEM_SIZES:
            raise CheckpointError(
                f"{first.file}: tensor {first.name} is stored as {' and '.join(sorted(kinds))}; "
                f"weights must be one of {', '.join(ITEM_SIZES)} (quantised checkpoints are not read)"
            )
        if not _fits(plan, shape):
            raise CheckpointError(
                f"{first.file}: tensor {first.name} has shape {list(first.shape)}, which gives {name} the shape "
                f"{list(plan.shape)}, but the model's sizes ask for {list(shape)}"
            )


def _fits(plan: LazyTensor, shape: tuple[int, ...]) -> bool:
    """Whether the plan gives that shape, and no piece is of another width than its neighbours."""
    widths = {tuple(size for dim, size in enumerate(_turned(plan, piece)) if dim != plan.axis) for piece in plan.pieces}
    return plan.shape == shape and len(widths) == 1


def _turned(plan: LazyTensor, piece: TensorSlice) -> tuple[int, ...]:
    return tuple(reversed(piece.tensor.shape)) if plan.is_transposed else piece.tensor.shape
