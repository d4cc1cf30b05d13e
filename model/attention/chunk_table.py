"""The table of chunks that the C kernel of a prefill step reads, and the check that it stays inside
the tensors it refers to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tirazh.model.kernels.tables import ChunkRow, column

MASK_UNIT = 32  # the C kernel reads masks whose queries are padded to a multiple of this


class ChunkLimits(NamedTuple):
    """The sizes of the tensors that a table refers to.

    `closing`: how far the global tokens of any head reach into a window; 0 where no window can be
    closed.
    """

    num_rows: int  # queries of the step
    num_own: int  # rows of the step that have keys
    num_heads: int
    num_slots: int
    capacity: int  # keys of a slot
    num_prefix: int
    closing: int


class ChunkTable:
    """Chunks as the kernel reads them: int64 [chunks, fields of ChunkRow], and all masks of trees,
    float32, concatenated."""

    def __init__(self, rows: Sequence[ChunkRow], masks: Sequence[Tensor] = ()) -> None:
        self.rows = torch.tensor(rows, dtype=torch.int64).view(len(rows), len(ChunkRow._fields))
        self.masks = torch.cat([each.flatten() for each in masks]) if masks else None
        self._fitting: set[ChunkLimits] = set()

    def check(self, limits: ChunkLimits) -> None:
        """Raise ValueError if the kernel would read or write outside the tensors of these sizes.

        The layers of a step share a table, so the same limits cost nothing the second time.
        """
        if limits in self._fitting:
            return
        is_wrong = self._wrong_rows(limits)
        if is_wrong.any():
            row = ChunkRow(*self.rows[int(is_wrong.argmax())].tolist())
            raise ValueError(f"a chunk of a prefill step is outside its tensors: {row}, {limits}")
        self._fitting.add(limits)

    def _wrong_rows(self, limits: ChunkLimits) -> NDArray[np.bool_]:
        table = self.rows.numpy()

        def value(name: str) -> NDArray[np.int64]:
            values: NDArray[np.int64] = table[:, column(ChunkRow, name)]
            return values

        row, length, kept, num_own = (value(name) for name in ("row", "length", "kept", "num_own"))
        prefix_count, close_at, is_kept = (value(name) for name in ("prefix_count", "close_at", "is_kept"))
        inside = [
            (value("slot") >= 0) & (value("slot") < limits.num_slots),
            (row >= 0) & (length >= 0) & (row + length <= limits.num_rows),
            (prefix_count == 0) | (prefix_count == limits.num_prefix),
            (close_at == -1)
            | ((close_at >= 0) & (close_at + limits.closing <= limits.capacity) & (limits.closing > 0)),
            (kept >= 0) & (kept + np.where(is_kept != 0, length, 0) <= limits.capacity),
            (num_own == 0) | ((num_own == length) & (row + num_own <= limits.num_own)),
            (is_kept == 0) | (num_own == length),
            self._masks_are_inside(value("mask_at"), value("mask_head"), length, kept + num_own, limits.num_heads),
        ]
        wrong: NDArray[np.bool_] = ~np.logical_and.reduce(inside)
        return wrong

    def _masks_are_inside(
        self,
        mask_at: NDArray[np.int64],
        mask_head: NDArray[np.int64],
        length: NDArray[np.int64],
        num_keys: NDArray[np.int64],
        num_heads: int,
    ) -> NDArray[np.bool_]:
        size = 0 if self.masks is None else self.masks.numel()
        width = -(-length // MASK_UNIT) * MASK_UNIT
        end = mask_at + (num_heads - 1) * mask_head + num_keys * width
        inside: NDArray[np.bool_] = (mask_at == -1) | ((mask_at >= 0) & (mask_head >= 0) & (end <= size))
        return inside
