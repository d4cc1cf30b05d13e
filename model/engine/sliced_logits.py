"""Logits of more rows than are held at once: a label trie of thousands of nodes would take gigabytes.

Legend: R rows of logits, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_MAX_BYTES = 128 << 20  # of float32 logits that exist at the same time


@dataclass(frozen=True, slots=True)
class SlicedLogits:
    """Float32 logits [R, V] that are computed when they are read, and before the next step runs.

    `compute(first, end)` returns those of rows `first` to `end`. The bits of a row do not depend on the
    rows that are computed with it.
    """

    num_rows: int
    rows_at_once: int
    compute: Callable[[int, int], Tensor]

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, rows: slice) -> Tensor:
        return self.compute(rows.start, rows.stop)

    def slices(self, needed: Sequence[int] | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield the logits as (first row, float32 [some rows, V]), where one of the rows `needed` is among them
        (None: all)."""
        rows = range(self.num_rows) if needed is None else needed
        for first in sorted({row // self.rows_at_once * self.rows_at_once for row in rows}):
            yield first, self.compute(first, min(first + self.rows_at_once, self.num_rows))


def chosen_rows(logits_RV: Tensor | SlicedLogits, rows: Sequence[int]) -> Tensor:
    """Return some rows of logits: float32 [rows, V]; the logits themselves, where these are all of them."""
    if isinstance(logits_RV, SlicedLogits):
        return torch.cat([logits_RV[row : row + 1] for row in rows])
    return logits_RV if list(rows) == list(range(logits_RV.shape[0])) else logits_RV[list(rows)]


def rows_at_once(vocab_size: int, multiple: int) -> int:
    """How many rows of logits are held at once: a multiple of `multiple`, at least that."""
    return max(1, _MAX_BYTES // (4 * vocab_size) // multiple) * multiple
