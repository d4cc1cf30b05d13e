"""The cache keeps exactly the keys and values that can still be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.model.tiny import sparse_configs, tiny_config
from tirazh.model.attention.backends.choose import build_attention
from tirazh.model.attention.block_layout import build_layout, global_starts
from tirazh.model.attention.kv_cache import KVCache, PrefixCache, slot_bytes
from tirazh.model.attention.layer_shape import LayerShape
from tirazh.model.attention.reference import expand_layout
from tirazh.model.attention.step_layout import append_step
from tirazh.model.config import ModelConfig, SparsePattern
from tirazh.model.engine.sequences import StepBuilder
from tirazh.model.step import FreshSlot

XL = tiny_config(num_attention_heads=16, max_position_embeddings=2048, sparse_pattern=SparsePattern(), layout_groups=1)
quick = settings(max_examples=30, deadline=None)


def sparse_shape(config: ModelConfig, dim: int = 1) -> LayerShape:
    return LayerShape(config.num_attention_heads, dim, config.sparse_pattern, tuple(global_starts(config)))


def last_readers(config: ModelConfig) -> Tensor:
    """For every head and key, the last query of the longest sequence that sees it, int64 [H, T]."""
    length = config.max_position_embeddings
    layout_HMM = torch.from_numpy(build_layout(config, length))
    mask_HTT = expand_layout(layout_HMM, config.sparse_pattern.block_size, length)
    return (mask_HTT * torch.arange(length)[:, None]).amax(1)


def still_read(last_reader_HT: Tensor, length: int) -> list[set[int]]:
    """Per head, the keys of the first `length` tokens that the newest query, or any later one, sees."""
    return [set((last_T[:length] >= length - 1).nonzero()[:, 0].tolist()) for last_T in last_reader_HT]


# How much is kept


@quick
@given(sparse_configs(), st.integers(1, 70), st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_slot_takes_what_is_allocated_for_it(config: ModelConfig, max_length: int, dtype: torch.dtype) -> None:
    shapes = [sparse_shape(config, dim=4), LayerShape(3, 16), LayerShape(1, 8)]
    cache = KVCache(shapes, num_slots=3, max_length=max_length, dtype=dtype, device=torch.device("cpu"))
    assert 3 * slot_bytes(shapes, max_length, dtype) == sum(
        x.nbytes for layer in cache.layers for x in (layer.k, layer.v)
    )


def test_a_sparse_layer_of_xl_keeps_the_minimum_at_every_length() -> None:
    last_reader_HT, shape = last_readers(XL), sparse_shape(XL)
    for length in range(1, 2049):
        still = (last_reader_HT[:, :length] >= length - 1).sum(1)
        assert still.unique().tolist() == [shape.tokens_kept(length)], length


def test_a_sparse_layer_of_xl_keeps_368_of_2048_tokens_and_never_more() -> None:
    shape = sparse_shape(XL)
    assert shape.tokens_kept(2048) == shape.capacity(2048) == 128 + 15 * 16 == 368
    assert max(shape.tokens_kept(length) for length in range(2049)) == 368


@pytest.mark.parametrize(
    ("length", "kept"), [(0, 0), (1, 1), (127, 127), (128, 128), (129, 17), (256, 144), (257, 33), (1024, 240)]
)
def test_tokens_kept_match_values_computed_by_hand(length: int, kept: int) -> None:
    """Windows of 128: a full one is kept until its successor's first token, then 16 tokens of it."""
    assert sparse_shape(XL).tokens_kept(length) == kept
    assert LayerShape(16, 64).tokens_kept(length) == length


@given(sparse_configs(), st.integers(1, 400))
def test_capacity_is_the_most_that_any_length_needs(config: ModelConfig, max_length: int) -> None:
    shape = sparse_shape(config)
    assert shape.capacity(max_length) == max(shape.tokens_kept(length) for length in range(max_length + 1))
    assert LayerShape(1, 1).capacity(max_length) == max_length


@pytest.mark.parametrize(("length", "share"), [(2048, 0.59), (1024, 0.62), (512, 0.67)])
def test_a_half_sparse_xl_caches_fewer_bytes_than_a_dense_one(length: int, share: float) -> None:
    dense, sparse = LayerShape(16, 128), sparse_shape(XL, dim=128)
    kept, whole = (
        new_cache(shapes, num_slots=1, max_length=1, dtype=torch.float16).bytes_kept(length)
        for shapes in ([sparse, dense] * 12, [dense] * 24)
    )
    assert whole == 24 * 2 * length * 2048 * 2  # layers, k and v, tokens, hidden size, bytes
    assert kept / whole == pytest.approx(share, abs=0.005)


def test_a_cache_takes_the_memory_of_its_slots_at_their_longest() -> None:
    cache = new_cache([sparse_shape(XL, dim=4), LayerShape(16, 4)], num_slots=3, max_length=2048)
    assert [tuple(layer.k.shape) for layer in cache.layers] == [(3, 16, 368, 4), (3, 16, 2048, 4)]
    assert not cache.layers[0].k.any()


# What is kept


def new_cache(
    shapes: Sequence[LayerShape],
    *,
    num_slots: int,
    max_length: int,
    dtype: torch.dtype = torch.float32,
    prefix: PrefixCache | None = None,
) -> KVCache:
    device = torch.device("cpu")
    return KVCache(shapes, num_slots=num_slots, max_length=max_length, dtype=dtype, device=device, prefix=prefix)


class PositionCache:
    """A sparse and a dense layer whose keys and values are the positions of their tokens."""

    def __init__(
        self, config: ModelConfig, *, num_slots: int, max_length: int, prefix: PrefixCache | None = None
    ) -> None:
        self.heads, self.window = config.num_attention_heads, config.sparse_pattern.window_size
        self.shapes = [sparse_shape(config), LayerShape(self.heads, 1)]
        self.cache = new_cache(self.shapes, num_slots=num_slots, max_length=max_length, prefix=prefix)

    def append(self, slot: int, count: int, *, phase: str = "prefill", fresh: tuple[FreshSlot, ...] = ()) -> None:
        """Append the next `count` tokens of a slot's sequence in one step."""
        if fresh:
            start = self.cache.prefix.length if self.cache.prefix and fresh[0].uses_prefix else 0
        else:
            start = self.cache.lengths[slot]
        builder = StepBuilder("decode" if phase == "decode" else "prefill", max(count, self.cache.num_slots))
        builder.row = slot if phase == "decode" else 0
        builder.add(slot, [0] * count, start)
        attention = build_attention(append_step(builder.build(fresh), self.cache), self.cache)
        positions = torch.from_numpy(builder.build(()).positions).float()[:, None, None].expand(-1, self.heads, 1)
        for layer in range(2):
            attention.attend(layer, torch.zeros_like(positions), positions, positions, 1.0)

    def fill(self, slot: int, length: int, *, uses_prefix: bool = False) -> None:
        """A new sequence of `length` tokens (behind the prefix), in chunks that end where windows do."""
        self.cache.start([FreshSlot(slot, uses_prefix)])
        fresh: tuple[FreshSlot, ...] = (FreshSlot(slot, uses_prefix=uses_prefix),)
        while self.cache.lengths[slot] < length:
            start = self.cache.lengths[slot]
            self.append(slot, min(length - start, self.window - start % self.window), fresh=fresh)
            fresh = ()

    def held(self, slot: int, layer: int) -> list[set[int]]:
        """Return the positions that the slot itself holds, per head."""
        if layer == 1:
            count = self.cache.own_length(slot)
        else:
            count = self.cache.num_retained(slot) + self.cache.num_open(slot)
        return _as_sets(self.cache.layers[layer].v[slot, :, :count])


def _as_sets(x_HCD: Tensor) -> list[set[int]]:
    sets = [set(row.int().tolist()) for row in x_HCD[..., 0]]
    assert all(len(kept) == x_HCD.shape[1] for kept in sets), "something is held twice"
    return sets


@quick
@given(sparse_configs(), st.data())
def test_after_any_appends_a_slot_holds_exactly_what_can_still_be_read(
    config: ModelConfig, data: st.DataObject
) -> None:
    most, window = config.max_position_embeddings, config.sparse_pattern.window_size
    positions = PositionCache(config, num_slots=3, max_length=most)
    last_reader_HT = last_readers(config)
    for _ in range(data.draw(st.integers(1, 12), label="steps")):
        slot = data.draw(st.integers(0, 2))
        length = positions.cache.lengths[slot]
        if length == most or (length and data.draw(st.integers(0, 9)) == 0):
            positions.cache.start([FreshSlot(slot, uses_prefix=False)])
            length = 0
        num_free = min(most - length, window - length % window)
        if data.draw(st.booleans(), label="decode"):
            positions.append(slot, 1, phase="decode")
        else:
            positions.append(slot, data.draw(st.sampled_from([num_free, 1]) | st.integers(1, num_free)))
        for slot in range(3):
            length = positions.cache.lengths[slot]
            assert positions.held(slot, 0) == still_read(last_reader_HT, length)
            assert positions.held(slot, 1) == [set(range(length))] * config.num_attention_heads
            if length:
                assert len(positions.held(slot, 0)[0]) == positions.shapes[0].tokens_kept(length)


@quick
@given(sparse_configs(), st.data())
def test_behind_a_shared_prefix_slot_and_prefix_together_hold_what_can_still_be_read(
    config: ModelConfig, data: st.DataObject
) -> None:
    most, window = config.max_position_embeddings, config.sparse_pattern.window_size
    assume(most > 1)
    edges = [n for n in (window, window + 1) if n < most]
    shared = data.draw(st.sampled_from([1, *edges]) | st.integers(1, most - 1))
    length = data.draw(st.integers(shared + 1, most))
    alone = PositionCache(config, num_slots=1, max_length=most)
    alone.fill(0, shared)
    prefix = alone.cache.to_prefix()
    behind = PositionCache(config, num_slots=2, max_length=most, prefix=prefix)
    behind.fill(1, length, uses_prefix=True)
    read = still_read(last_readers(config), length)
    for head in range(config.num_attention_heads):
        (sparse, dense) = (_as_sets(layer.shared.k)[head] for layer in prefix.layers)
        assert not sparse & behind.held(1, 0)[head]
        assert sparse | behind.held(1, 0)[head] == read[head]
        assert dense == set(range(shared))
        assert behind.held(1, 1)[head] == set(range(shared, length))


def test_a_dense_model_needs_no_windows() -> None:
    cache = new_cache([LayerShape(2, 1)], num_slots=1, max_length=9)
    assert cache.window_size == 0
    cache.advance(0, 9)
    assert not cache.is_window_full(0)
    assert cache.own_length(0) == 9


def test_a_new_sequence_replaces_the_old_one_and_a_dirty_slot_is_zeroed() -> None:
    positions = PositionCache(tiny_config(), num_slots=2, max_length=40)
    for slot in (0, 1):
        positions.fill(slot, 40)
    positions.cache.layers[0].k[:, :, 3] = torch.nan
    positions.cache.start([FreshSlot(0, uses_prefix=False, must_zero=True)])
    assert positions.cache.lengths == [0, 40]
    for layer in positions.cache.layers:
        assert not layer.k[0].any()
        assert not layer.v[0].any()
    assert positions.cache.layers[0].k[1, 0, 3].isnan().all()


@quick
@given(sparse_configs(), st.data())
def test_a_fork_holds_what_its_source_holds_and_goes_on_alone(config: ModelConfig, data: st.DataObject) -> None:
    most = config.max_position_embeddings
    assume(most > 1)
    length = data.draw(st.sampled_from([config.sparse_pattern.window_size, 1]) | st.integers(1, most - 1))
    assume(length < most)
    positions = PositionCache(config, num_slots=3, max_length=most)
    positions.fill(0, length)
    read = still_read(last_readers(config), length)
    # The source's slot passes to another sequence in the same step.
    forks = [FreshSlot(slot, uses_prefix=False, fork_of=0) for slot in (1, 2)]
    positions.cache.start([*forks, FreshSlot(0, uses_prefix=False)])
    assert positions.cache.lengths == [0, length, length]
    assert positions.held(1, 0) == positions.held(2, 0) == read
    positions.append(2, 1)
    assert positions.held(1, 0) == read
    assert positions.held(2, 0) == still_read(last_readers(config), length + 1)
    assert positions.held(2, 1) == [set(range(length + 1))] * config.num_attention_heads


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux reports the resident memory")
def test_a_slot_takes_memory_for_the_tokens_it_has_and_not_for_those_it_may_get() -> None:
    shape = LayerShape(8, 64)
    before = _resident_bytes()
    cache = new_cache([shape] * 2, num_slots=16, max_length=2048)  # 256 MiB of float32, were they all written
    for layer in cache.layers:
        layer.k[:, :, :16], layer.v[:, :, :16] = 1, 1
    assert _resident_bytes() - before < 32 * 2**20


def _resident_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss:"))
