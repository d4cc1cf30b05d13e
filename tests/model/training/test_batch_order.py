"""The data order: fixed by the seed, every sequence once per epoch, the same batches for any number of workers."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tirazh.model.training.batch_order import BatchOrder, Source, epoch_order, mixed_order, share

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


mixed = st.lists(st.builds(Source, st.integers(1, 40), st.floats(0.05, 20)), min_size=1, max_size=4)


def drawn_from(sources: list[Source], order: np.ndarray) -> list[int]:
    """The number of the source of each sequence."""
    starts = np.cumsum([source.count for source in sources])
    return np.searchsorted(starts, order, side="right").tolist()


@given(seeds, mixed, st.integers(0, 3))
def test_sources_have_the_shares_of_their_weights_in_every_epoch(seed: int, sources: list[Source], epoch: int) -> None:
    counts = Counter(drawn_from(sources, mixed_order(seed, sources, epoch)))
    total, weights = sum(source.count for source in sources), sum(source.weight for source in sources)
    for number, source in enumerate(sources):
        exact = total * source.weight / weights
        assert counts[number] == 1 if exact < 1 else abs(counts[number] - exact) < 1


@given(seeds, st.integers(1, 60), st.integers(1, 60), st.floats(0.1, 10), st.data())
def test_sources_have_their_shares_in_every_part_of_an_epoch(
    seed: int, first: int, second: int, weight: float, data: st.DataObject
) -> None:
    sources = [Source(first, weight), Source(second, 1.0)]
    order = drawn_from(sources, mixed_order(seed, sources, 0))
    start = data.draw(st.integers(0, len(order) - 1))
    part = order[start : data.draw(st.integers(start + 1, len(order)))]
    share_of_all = order.count(0) / len(order)
    assert abs(part.count(0) - share_of_all * len(part)) <= 2


@given(seeds, mixed)
def test_no_sequence_of_a_source_comes_again_before_all_have_come(seed: int, sources: list[Source]) -> None:
    order = np.concatenate([mixed_order(seed, sources, epoch) for epoch in range(4)])
    first = 0
    for source in sources:
        times = Counter(index for index in order.tolist() if first <= index < first + source.count)
        assert max(times.values()) - min(times[index] for index in range(first, first + source.count)) <= 1
        first += source.count


@given(seeds, mixed, st.integers(1, 9), st.integers(0, 30))
def test_a_batch_of_mixed_sources_does_not_depend_on_earlier_steps(
    seed: int, sources: list[Source], batch_size: int, step: int
) -> None:
    total = sum(source.count for source in sources)
    walked = BatchOrder(seed, total, batch_size, sources=sources)
    for before in range(step):
        walked.batch(before)
    after_a_restart = BatchOrder(seed, total, batch_size, sources=sources).batch(step)
    assert walked.batch(step).tolist() == after_a_restart.tolist()
    assert len(after_a_restart) == batch_size
