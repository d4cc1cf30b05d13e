"""Tensors as the files store them, and model tensors assembled from slices of stored ones.

One class, `LazyTensor`, does all of model-parallel merging, splitting of fused projections and
transposing: a model tensor is a concatenation of `TensorSlice`s along one axis, and reading a slice
of it reads only the parts of the files that it covers. Imports no torch until a tensor is read.
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

_COMPARED_BYTES = 8 << 20
ITEM_SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
Bounds = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """One tensor of one file.

    `read_box` takes (start, stop) for every dimension and reads no more than that; its result may
    share memory with the file. `dtype` is torch's name without `torch.`.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    read_box: Callable[[Bounds], Tensor]

    def size(self, dim: int) -> int:
        """Return the length of dimension `dim`.

        Raises CheckpointError when the tensor has fewer dimensions.
        """
        if dim >= len(self.shape):
            raise CheckpointError(
                f"{self.file}: tensor {self.name} has {len(self.shape)} dimensions, too few for a model weight"
            )
        return self.shape[dim]


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSlice:
    """`start:stop` of a stored tensor along the axis of its LazyTensor, after transposing."""

    tensor: StoredTensor
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LazyTensor:
    """A tensor of the model: slices of stored tensors, concatenated along `axis`.

    `is_transposed` says that the files store the matrix transposed; `axis` counts after
    transposing.
    """

    slices: tuple[TensorSlice, ...]
    axis: int = 0
    is_transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        sizes = list(self.shape_of(self.slices[0]))
        sizes[self.axis] = sum(each.stop - each.start for each in self.slices)
        return tuple(sizes)

    def shape_of(self, part: TensorSlice) -> tuple[int, ...]:
        """Return the shape of the stored tensor behind `part`, after transposing."""
        return tuple(reversed(part.tensor.shape)) if self.is_transposed else part.tensor.shape

    @property
    def dtype(self) -> str:
        """The stored dtype by torch's name, without `torch.`: "float16"."""
        return self.slices[0].tensor.dtype

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * ITEM_SIZES[self.dtype]

    def read(self, dim: int | None = None, start: int = 0, stop: int | None = None) -> Tensor:
        """Read the tensor, or its `start:stop` along `dim`, in the stored dtype on the CPU.

        The result may share memory with the file.
        """
        import torch

        bounds = [(0, size) for size in self.shape]
        if dim is not None:
            stop = bounds[dim][1] if stop is None else stop
            if not 0 <= start <= stop <= bounds[dim][1]:
                raise ValueError(f"slice {start}:{stop} is outside dimension {dim} of shape {self.shape}")
            bounds[dim] = (start, stop)
        boxes = [self._read_slice(part, bounds, span) for part, span in self._overlaps(bounds[self.axis])]
        return boxes[0] if len(boxes) == 1 else torch.cat(boxes, dim=self.axis)

    def _overlaps(self, wanted: tuple[int, int]) -> Iterable[tuple[TensorSlice, tuple[int, int]]]:
        """Yield the slices that `wanted` (along `axis`) covers, each with the span to read from it."""
        low, high = wanted
        if low == high:  # an empty slice still needs one read, for its dtype and its other dimensions
            yield self.slices[0], (self.slices[0].start, self.slices[0].start)
        offset = 0
        for part in self.slices:
            length = part.stop - part.start
            first, last = max(low - offset, 0), min(high - offset, length)
            if first < last:
                yield part, (part.start + first, part.start + last)
            offset += length

    def _read_slice(self, part: TensorSlice, bounds: list[tuple[int, int]], span: tuple[int, int]) -> Tensor:
        box = [*bounds]
        box[self.axis] = span
        if self.is_transposed:
            return part.tensor.read_box(tuple(reversed(box))).T
        return part.tensor.read_box(tuple(box))


def whole(tensors: Iterable[StoredTensor], *, axis: int = 0, is_transposed: bool = False) -> LazyTensor:
    """Concatenate whole tensors along `axis`."""
    stored_axis = 1 - axis if is_transposed else axis  # only matrices are transposed
    slices = tuple(TensorSlice(tensor=tensor, start=0, stop=tensor.size(stored_axis)) for tensor in tensors)
    return LazyTensor(slices=slices, axis=axis, is_transposed=is_transposed)


def third(tensors: Iterable[StoredTensor], index: int, *, is_transposed: bool = False) -> LazyTensor:
    """Concatenate third `index` (0 q, 1 k, 2 v) of every rank's fused projection along the rows.

    Raises CheckpointError when the rows of a tensor are not a multiple of three.
    """
    slices = []
    for tensor in tensors:
        rows = tensor.size(1 if is_transposed else 0)
        if rows % 3:
            raise CheckpointError(
                f"{tensor.file}: {tensor.name} has {rows} rows, not a multiple of three for q, k and v"
            )
        slices.append(TensorSlice(tensor=tensor, start=index * rows // 3, stop=(index + 1) * rows // 3))
    return LazyTensor(slices=tuple(slices), is_transposed=is_transposed)


def stored_names(tensors: Mapping[str, LazyTensor]) -> set[str]:
    """Return the names, as stored, of all tensors from which the model's are made."""
    return {part.tensor.name for tensor in tensors.values() for part in tensor.slices}


def same_values(first: LazyTensor, second: LazyTensor) -> bool:
    """Return whether two tensors have the same shape and values; reads both, some MiB at a time.

    Values of different dtypes are compared as float32; tensors of no plain dtype are never the same.
    """
    if first.shape != second.shape or not {first.dtype, second.dtype} <= set(ITEM_SIZES):
        return False
    if 0 in first.shape:
        return True
    row_bytes = max(first.num_bytes, second.num_bytes) // first.shape[0]
    rows = max(1, _COMPARED_BYTES // max(row_bytes, 1))
    for start in range(0, first.shape[0], rows):
        stop = min(start + rows, first.shape[0])
        parts = [tensor.read(0, start, stop) for tensor in (first, second)]
        if first.dtype != second.dtype:
            parts = [part.float() for part in parts]
        if not bool((parts[0] == parts[1]).all()):
            return False
    return True


def check_tensors(tensors: Mapping[str, LazyTensor], config: ModelConfig) -> None:
    """Raise CheckpointError unless every weight of the model is there, in its shape and in a plain dtype."""
    for name, shape in expected_shapes(config).items():
        tensor = tensors[name]
        first = tensor.slices[0].tensor
        dtypes = {each.tensor.dtype for each in tensor.slices}
        if len(dtypes) > 1 or first.dtype not in ITEM_SIZES:
            raise CheckpointError(
                f"{first.file}: tensor {first.name} is stored as {' and '.join(sorted(dtypes))}; "
                f"weights must be one of {', '.join(ITEM_SIZES)} (quantised checkpoints are not supported)"
            )
        if not _fits(tensor, shape):
            raise CheckpointError(
                f"{first.file}: tensor {first.name} has shape {list(first.shape)}, which makes the shape of {name} "
                f"{list(tensor.shape)}, but the model's sizes require {list(shape)}"
            )


def _fits(tensor: LazyTensor, shape: tuple[int, ...]) -> bool:
    """Return whether the tensor has that shape, and its slices agree in all dimensions but `axis`."""
    widths = {
        tuple(size for dim, size in enumerate(tensor.shape_of(part)) if dim != tensor.axis) for part in tensor.slices
    }
    return tensor.shape == shape and len(widths) == 1
