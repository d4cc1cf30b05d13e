"""Writes safetensors files as a stream: the header first, then the tensors chunk by chunk.

A file gets its final name only when it is complete and on disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.tensors import ITEM_SIZES

if TYPE_CHECKING:
    from torch import Tensor

PARTIAL = ".partial"
_CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_CHUNK_BYTES = 8 << 20

ReadRows = Callable[[int, int], "Tensor"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSource:
    """A tensor to be written as `dtype`; `read_rows(start, stop)` returns rows of it in any dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    read_rows: ReadRows

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * ITEM_SIZES[self.dtype]

    def chunks(self) -> Iterator[memoryview]:
        """Yield the tensor's bytes in chunks of about 8 MiB.

        Raises CheckpointError for values that overflow.
        """
        rows = max(1, _CHUNK_BYTES * self.shape[0] // max(self.num_bytes, 1))
        for start in range(0, self.shape[0], rows):
            yield self._bytes(self.read_rows(start, min(start + rows, self.shape[0])))

    def _bytes(self, part: Tensor) -> memoryview:
        import torch

        cast = part.to(getattr(torch, self.dtype)).contiguous()
        if cast.dtype != part.dtype and bool((cast.isinf() & ~part.isinf()).any()):
            raise CheckpointError(f"tensor {self.name} holds values too large for {self.dtype}; convert to bfloat16")
        return cast.reshape(-1).view(torch.uint8).numpy().data


def write_safetensors(path: Path, sources: Sequence[TensorSource], *, on_bytes: Callable[[int], None]) -> None:
    """Write one file and call `on_bytes` with the size of every chunk.

    Uses the memory of one chunk.
    """
    # Wide dtypes first, so that each tensor starts at a multiple of its item size and can be
    # memory-mapped.
    ordered = sorted(sources, key=lambda source: -ITEM_SIZES[source.dtype])
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("wb") as file:
        file.write(_header(ordered))
        for source in ordered:
            for chunk in source.chunks():
                file.write(chunk)
                on_bytes(chunk.nbytes)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def sync_directory(folder: Path) -> None:
    """Sync the entries of a directory to disk: a rename must survive a power failure.

    Some network file systems cannot; the files themselves are synced there too.
    """
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _header(sources: Sequence[TensorSource]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for source in sources:
        end = offset + source.num_bytes
        entries[source.name] = {
            "dtype": _CODES[source.dtype],
            "shape": list(source.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
