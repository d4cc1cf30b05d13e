"""The data order: fixed by the seed, every sequence once per epoch, the same batches for any number of workers."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tirazh.model.training.batch_order import BatchOrder, epoch_order, share

seeds = st.integers(-(2**63), 2**63 - 1)


@given(seeds, st.integers(1, 50), st.integers(1, 9))
def test_every_sequence_comes_once_per_epoch_and_every_batch_is_full(seed: int, count: int, batch_size: int) -> None:
    order = BatchOrder(seed, count, batch_size)
    batches = [order.batch(step) for step in range(-(-2 * count // batch_size))]
    assert all(len(batch) == batch_size for batch in batches)
    first, second = np.split(np.concatenate(batches)[: 2 * count], 2)
    assert sorted(first) == sorted(second) == list(range(count))


@given(seeds, st.integers(1, 50), st.integers(1, 9), st.integers(0, 30))
def test_a_batch_does_not_depend_on_earlier_steps(seed: int, count: int, batch_size: int, step: int) -> None:
    walked = BatchOrder(seed, count, batch_size)
    for before in range(step):
        walked.batch(before)
    assert walked.batch(step).tolist() == BatchOrder(seed, count, batch_size).batch(step).tolist()


def test_every_epoch_and_seed_has_its_own_order() -> None:
    orders = {tuple(epoch_order(seed, 20, epoch)) for seed in (-1, 0, 1) for epoch in (0, 1)}
    assert len(orders) == 6


@given(st.lists(st.integers(2, 99), min_size=1, max_size=40), st.integers(1, 7), st.integers(1, 6))
def test_workers_split_a_batch_into_equally_many_microbatches(lengths: list[int], world_size: int, size: int) -> None:
    """Each sequence once, equally many microbatches for all, of at most `size`."""
    indices = list(range(100, 100 + len(lengths)))
    shares = [share(indices, lengths, rank=rank, world_size=world_size, size=size) for rank in range(world_size)]
    assert Counter(index for own in shares for micro in own for index in micro) == Counter(indices)
    assert len({len(own) for own in shares}) == 1
    assert all(len(micro) <= size for own in shares for micro in own)


def test_sequences_of_similar_length_are_grouped() -> None:
    assert share([0, 1, 2, 3], [5, 90, 6, 80], rank=0, world_size=1, size=2) == [[1, 3], [2, 0]]
