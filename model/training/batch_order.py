"""The order of the training data: which sequences a step takes, and which of them each worker runs.

It depends on the seed and the data alone: the batch of a step is the same for any number of workers
and after a resume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def epoch_order(seed: int, num_sequences: int, epoch: int) -> Indices:
    """Return a permutation of all sequences, int64 [num_sequences]; every epoch has its own."""
    # Seeds are any signed 64-bit number, but the generator's key must not be negative.
    return np.random.default_rng([seed % (1 << 64), epoch]).permutation(num_sequences)


class BatchOrder:
    """Batches of `batch_size` sequences from concatenated epochs: all are full and none is dropped."""

    def __init__(self, seed: int, num_sequences: int, batch_size: int) -> None:
        assert num_sequences > 0
        self._seed = seed
        self._num_sequences = num_sequences
        self._batch_size = batch_size
        self._epochs: dict[int, Indices] = {}

    def batch(self, step: int) -> Indices:
        """Return the sequences of step `step` (from 0), int64 [batch_size]."""
        positions = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        epochs, rows = np.divmod(positions, self._num_sequences)
        needed = {int(epoch) for epoch in np.unique(epochs)}
        self._epochs = {
            epoch: self._epochs[epoch] if epoch in self._epochs else epoch_order(self._seed, self._num_sequences, epoch)
            for epoch in needed
        }
        return np.array(
            [self._epochs[int(epoch)][row] for epoch, row in zip(epochs, rows, strict=True)], dtype=np.int64
        )


def share(
    indices: Sequence[int] | Indices, lengths: Sequence[int] | Indices, *, rank: int, world_size: int, size: int
) -> list[list[int]]:
    """Return rank `rank`'s microbatches of at most `size` sequences.

    Every rank gets the same number of microbatches; the last ones may be empty. Sequences of
    similar length are grouped, so that there is little padding; the longest come first, so that
    running out of memory fails early.
    """
    ranked = [int(indices[position]) for position in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")]
    own = ranked[rank::world_size]
    count = num_microbatches(len(ranked), world_size=world_size, size=size)
    return [own[start * size : (start + 1) * size] for start in range(count)]


def num_microbatches(num_sequences: int, *, world_size: int, size: int) -> int:
    """Return how many microbatches of `size` sequences each rank runs for a batch of `num_sequences`."""
    return math.ceil(math.ceil(num_sequences / world_size) / size)
