"""The order of the training data: which sequences a step takes, and which of them each worker runs.

It depends on the seed and the data alone: the batch of a step is the same for any number of workers
and after a resume. Sources with weights are mixed: each has its share of the sequences of every epoch, and of every
part of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Source:
    """Sequences that follow each other in the store, `count` of them, and the weight of their share."""

    count: int
    weight: float


def epoch_counts(sources: Sequence[Source]) -> list[int]:
    """Return how many sequences of each source an epoch has: as many as there are in all, in the shares of the weights.

    They are rounded by the largest remainder; a source with less than one sequence has one.
    """
    total, weights = sum(source.count for source in sources), sum(source.weight for source in sources)
    exact = [total * source.weight / weights for source in sources]
    counts = [int(each) for each in exact]
    by_rest = sorted(range(len(sources)), key=lambda index: counts[index] - exact[index])
    for index in by_rest[: total - sum(counts)]:
        counts[index] += 1
    return [max(1, count) for count in counts]


def mixed_order(seed: int, sources: Sequence[Source], epoch: int) -> Indices:
    """Return the sequences of an epoch of mixed sources, int64 [sum of `epoch_counts`].

    Each source goes through its own permutations, one after the other and across epochs, so that none of its sequences
    comes again before all have come. The draws of a source are spread over the epoch: the n-th of N is somewhere in the
    n-th of N parts.
    """
    rng = np.random.default_rng([seed % (1 << 64), epoch, 1])
    places, drawn, first = [], [], 0
    for number, (source, count) in enumerate(zip(sources, epoch_counts(sources), strict=True)):
        rounds, rows = np.divmod(np.arange(epoch * count, (epoch + 1) * count), source.count)
        own = (seed + number) % (1 << 64)
        orders = {int(each): epoch_order(own, source.count, int(each)) for each in np.unique(rounds)}
        drawn += [first + int(orders[int(each)][row]) for each, row in zip(rounds, rows, strict=True)]
        places.append((np.arange(count) + rng.random(count)) / count)
        first += source.count
    return np.asarray(drawn, dtype=np.int64)[np.argsort(np.concatenate(places), kind="stable")]


def epoch_order(seed: int, num_sequences: int, epoch: int) -> Indices:
    """Return a permutation of all sequences, int64 [num_sequences]; every epoch has its own."""
    # Seeds are any signed 64-bit number, but the generator's key must not be negative.
    return np.random.default_rng([seed % (1 << 64), epoch]).permutation(num_sequences)


class BatchOrder:
    """Batches of `batch_size` sequences from concatenated epochs: all are full and none is dropped.

    With `sources`, which hold all sequences, the epochs are mixed (`mixed_order`).
    """

    def __init__(self, seed: int, num_sequences: int, batch_size: int, *, sources: Sequence[Source] = ()) -> None:
        assert num_sequences > 0
        self._seed = seed
        self._sources = sources
        self._num_sequences = sum(epoch_counts(sources)) if sources else num_sequences
        self._batch_size = batch_size
        self._epochs: dict[int, Indices] = {}

    def batch(self, step: int) -> Indices:
        """Return the sequences of step `step` (from 0), int64 [batch_size]."""
        positions = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        epochs, rows = np.divmod(positions, self._num_sequences)
        needed = {int(epoch) for epoch in np.unique(epochs)}
        self._epochs = {epoch: self._epochs[epoch] if epoch in self._epochs else self._order(epoch) for epoch in needed}
        return np.array(
            [self._epochs[int(epoch)][row] for epoch, row in zip(epochs, rows, strict=True)], dtype=np.int64
        )

    def _order(self, epoch: int) -> Indices:
        if self._sources:
            return mixed_order(self._seed, self._sources, epoch)
        return epoch_order(self._seed, self._num_sequences, epoch)


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
