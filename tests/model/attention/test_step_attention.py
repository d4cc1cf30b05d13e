"""The engine's attention over its cache equals the masked reference: chunks, slots, shared prefixes, label trees."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.model.tiny import sparse_configs, tiny_config, use_threads
from tirazh.model.attention.backends.choose import build_attention
from tirazh.model.attention.backends.interface import StepAttention
from tirazh.model.attention.block_layout import build_layout, global_starts
from tirazh.model.attention.kv_cache import KVCache, PrefixCache
from tirazh.model.attention.layer_shape import LayerShape
from tirazh.model.attention.masked import attention_with_lse
from tirazh.model.attention.reference import expand_layout, masked_attention
from tirazh.model.attention.step_layout import append_step
from tirazh.model.config import ModelConfig
from tirazh.model.engine.labels.trie import build_trie
from tirazh.model.engine.sequences import StepBuilder
from tirazh.model.step import FreshSlot, Step

DIM, SCALE = 4, 0.5
KERNELS_DIM = 16  # heads that a CPU's compiled kernels take; others are computed by torch
DIMS = st.sampled_from([DIM, KERNELS_DIM])
quick = settings(max_examples=30, deadline=None)


def attention_of(step: Step, cache: KVCache) -> StepAttention:
    """The attention of a step, which is counted into the cache."""
    return build_attention(append_step(step, cache), cache)


class Sequence:
    """Random queries, keys and values [H, T, D] of one sequence, and what the reference attends to in it."""

    def __init__(self, config: ModelConfig, length: int, seed: int, dim: int = DIM) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = (config.num_attention_heads, length, dim)
        self.q, self.k, self.v = (torch.randn(shape, generator=generator) for _ in range(3))
        layout_HMM = torch.from_numpy(build_layout(config, length))
        sparse = expand_layout(layout_HMM, config.sparse_pattern.block_size, length)
        dense = torch.ones(1, length, length, dtype=torch.bool).tril()
        self.expected = [
            masked_attention(self.q[None], self.k[None], self.v[None], mask, SCALE)[0] for mask in (sparse, dense)
        ]


class TwoLayers:
    """A sparse layer and a dense one over one cache; both are fed the same queries, keys and values."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_slots: int,
        max_length: int,
        dim: int = DIM,
        prefix: PrefixCache | None = None,
    ) -> None:
        heads = config.num_attention_heads
        self.window = config.sparse_pattern.window_size
        shapes = [
            LayerShape(heads, dim, config.sparse_pattern, tuple(global_starts(config))),
            LayerShape(heads, dim),
        ]
        self.cache = KVCache(
            shapes,
            num_slots=num_slots,
            max_length=max_length,
            dtype=torch.float32,
            device=torch.device("cpu"),
            prefix=prefix,
        )

    def step(
        self,
        phase: Literal["prefill", "decode"],
        chunks: list[tuple[int, int, Sequence, int, int]],
        fresh: tuple[FreshSlot, ...] = (),
    ) -> None:
        """One step of chunks (slot, row, sequence, start, stop), checked against the reference."""
        shape = self.cache.layers[0].shape
        builder = StepBuilder(phase, max(row + stop - start for _, row, _, start, stop in chunks) + 2)
        q, k, v = (torch.full((shape.num_heads, builder.num_rows, shape.head_dim), 9.0) for _ in range(3))
        for slot, row, sequence, start, stop in chunks:
            builder.row = row
            builder.add(slot, [0] * (stop - start), start)
            for whole, own in ((q, sequence.q), (k, sequence.k), (v, sequence.v)):
                whole[:, row : row + stop - start] = own[:, start:stop]
        attention = attention_of(builder.build(fresh), self.cache)
        for layer in range(2):
            out_NHD = attention.attend(layer, *(x.transpose(0, 1) for x in (q, k, v)), SCALE)
            for _, row, sequence, start, stop in chunks:
                result = out_NHD[row : row + stop - start].transpose(0, 1)
                assert (result - sequence.expected[layer][:, start:stop]).abs().max() < 1e-5

    def prefill(self, slot: int, sequence: Sequence, stop: int, *, start: int = 0, uses_prefix: bool = False) -> None:
        fresh: tuple[FreshSlot, ...] = (FreshSlot(slot, uses_prefix=uses_prefix),)
        while start < stop:
            end = min(stop, start + self.window - start % self.window)
            self.step("prefill", [(slot, 1, sequence, start, end)], fresh)
            start, fresh = end, ()


@quick
@given(sparse_configs(), st.data())
def test_prefill_in_any_chunks_and_decode_beside_others_is_the_reference(
    config: ModelConfig, data: st.DataObject
) -> None:
    most = config.max_position_embeddings
    dim = data.draw(DIMS)
    layers = TwoLayers(config, num_slots=4, max_length=most, dim=dim)
    sequences = [Sequence(config, most, seed, dim) for seed in range(4)]
    prompts = [data.draw(st.integers(1, most), label="prompt") for _ in range(4)]
    for slot in data.draw(st.permutations(range(4))):
        layers.prefill(slot, sequences[slot], prompts[slot])
    for _ in range(12):
        lengths = layers.cache.lengths
        group = data.draw(st.sampled_from([0, 2]), label="first slot of the decode rows")
        ready = [slot for slot in range(group, 4) if lengths[slot] < most]
        if ready:
            layers.step("decode", [(s, s - group, sequences[s], lengths[s], lengths[s] + 1) for s in ready])


@pytest.mark.parametrize("dim", [DIM, KERNELS_DIM])
def test_chunks_of_several_prompts_share_a_step(dim: int) -> None:
    config = tiny_config()
    layers = TwoLayers(config, num_slots=3, max_length=60, dim=dim)
    first, second = Sequence(config, 60, 1, dim), Sequence(config, 60, 2, dim)
    fresh = (FreshSlot(0, uses_prefix=False), FreshSlot(2, uses_prefix=False))
    layers.step("prefill", [(0, 0, first, 0, 16), (0, 16, first, 16, 21), (2, 21, second, 0, 9)], fresh)
    layers.step("prefill", [(2, 0, second, 9, 16), (2, 7, second, 16, 30), (0, 21, first, 21, 32)])


@quick
@given(sparse_configs(), st.data())
def test_behind_a_shared_prefix_attention_is_that_of_the_whole_sequence(
    config: ModelConfig, data: st.DataObject
) -> None:
    most, window = config.max_position_embeddings, config.sparse_pattern.window_size
    edges = [n for k in (1, 2) for n in (k * window - 1, k * window, k * window + 1) if 1 <= n < most]
    assume(most > 1)
    shared = data.draw(st.sampled_from([1, *edges]) | st.integers(1, most - 1))
    dim = data.draw(DIMS)
    alone = TwoLayers(config, num_slots=1, max_length=shared, dim=dim)
    beginning = Sequence(config, most, 0, dim)
    alone.prefill(0, beginning, shared)
    layers = TwoLayers(config, num_slots=3, max_length=most, dim=dim, prefix=alone.cache.to_prefix())
    other = Sequence(config, most, 5, dim)
    layers.prefill(1, other, data.draw(st.integers(1, most)))  # a neighbour without the prefix
    prompt = data.draw(st.integers(shared + 1, most))
    layers.prefill(0, beginning, prompt, start=shared, uses_prefix=True)
    for _ in range(6):
        lengths = layers.cache.lengths
        ready = [(s, s, x, lengths[s], lengths[s] + 1) for s, x in ((0, beginning), (1, other)) if lengths[s] < most]
        if ready:
            layers.step("decode", ready)


@quick
@given(sparse_configs(), st.data())
def test_tree_attention_covers_the_sequence_and_the_ancestors_and_leaves_the_cache_unchanged(
    config: ModelConfig, data: st.DataObject
) -> None:
    """Every path of the tree is the sequence continued by that path, also where it grows into the next window."""
    labels = [(1, 2, 3, 4, 5), (1, 2, 9), (1, 7, 8), (6, 5), (3,)]
    trie = build_trie(labels)
    most = config.max_position_embeddings
    depth = 1 + max(trie.depths)
    assume(most > depth and most >= len(trie.token_ids))
    window = config.sparse_pattern.window_size
    ends = [n for k in (1, 2) for n in range(k * window - 4, k * window + 2) if 1 <= n <= most - depth]
    length = data.draw(st.sampled_from([*ends, most - depth]) | st.integers(1, most - depth))
    dim = data.draw(DIMS)
    sequence = Sequence(config, length, 0, dim)
    layers = TwoLayers(config, num_slots=2, max_length=most, dim=dim)
    layers.prefill(1, sequence, length)
    before = [(layer.k.clone(), layer.v.clone()) for layer in layers.cache.layers]

    heads, num_nodes = config.num_attention_heads, len(trie.token_ids)
    nodes = Sequence(config, num_nodes, 1, dim)
    builder = StepBuilder("prefill", num_nodes + 3)
    builder.row = 3
    builder.add_trie(1, trie, length)
    attention = attention_of(builder.build(()), layers.cache)
    q, k, v = (torch.cat([torch.ones(heads, 3, dim), x], dim=1) for x in (nodes.q, nodes.k, nodes.v))
    rows = [x.transpose(0, 1) for x in (q, k, v)]
    results = [attention.attend(layer, *rows, SCALE)[3:].transpose(0, 1) for layer in range(2)]

    for path in {tuple(node for node, _ in path if node >= 0) for path in trie.paths}:
        if path:
            whole = Sequence(config, length + len(path), 2, dim)
            for name in ("q", "k", "v"):
                setattr(whole, name, torch.cat([getattr(sequence, name), getattr(nodes, name)[:, list(path)]], dim=1))
            for layer, expected in enumerate(reference(config, whole)):
                assert (results[layer][:, list(path)] - expected[:, length:]).abs().max() < 1e-5
    assert layers.cache.lengths == [0, length]
    for layer, (k_before, v_before) in zip(layers.cache.layers, before, strict=True):
        assert torch.equal(layer.k, k_before)
        assert torch.equal(layer.v, v_before)


def reference(config: ModelConfig, sequence: Sequence) -> list[Tensor]:
    length = sequence.q.shape[1]
    layout_HMM = torch.from_numpy(build_layout(config, length))
    sparse = expand_layout(layout_HMM, config.sparse_pattern.block_size, length)
    masks = sparse, torch.ones(1, length, length, dtype=torch.bool).tril()
    return [masked_attention(sequence.q[None], sequence.k[None], sequence.v[None], mask, SCALE)[0] for mask in masks]


# The attention call that all implementations in torch are made of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("batch", [(), (3,)], ids=["one", "batched"])
@pytest.mark.parametrize("masked", ["not", "bool", "additive"])
def test_attention_with_lse_returns_attention_and_its_log_sum_exp(
    batch: tuple[int, ...], kv_heads: int, dtype: torch.dtype, masked: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(*batch, 4, 5, 16, generator=generator).to(dtype)
    k, v = (torch.randn(*batch, kv_heads, 70, 16, generator=generator).to(dtype) for _ in range(2))
    visible = torch.rand(5, 70, generator=generator) < 0.5
    mask = {"not": None, "bool": visible, "additive": torch.zeros(5, 70, dtype=dtype).masked_fill(~visible, -torch.inf)}
    out, lse = attention_with_lse(
        q, k, v, SCALE, None if mask[masked] is None else mask[masked].expand(*batch, 1, -1, -1)
    )

    k_all, v_all = (x.repeat_interleave(4 // kv_heads, dim=-3).double() for x in (k, v))
    scores = q.double() @ k_all.transpose(-1, -2) * SCALE
    if masked != "not":
        scores = scores.masked_fill(~visible, -torch.inf)
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    assert out.dtype == dtype
    assert lse.dtype == torch.float32
    assert (lse - scores.logsumexp(-1)).abs().max() < tolerance
    assert (out - scores.softmax(-1) @ v_all).abs().max() < tolerance


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_decoded_row_has_the_same_bits_among_any_number_of_slots(dtype: torch.dtype, num_threads: int) -> None:
    """Which thread computes a row, and in which scratch memory, depends on how many rows there are."""
    shape, length = LayerShape(6, 32), 50
    q, k, v = torch.randn(3, 6, length + 1, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    results = []
    for num_slots, slot in ((1, 0), (2, 0), (2, 1), (5, 3), (9, 8)):
        cache = KVCache([shape], num_slots=num_slots, max_length=130, dtype=dtype, device=torch.device("cpu"))
        cache.layers[0].k[slot, :, :length], cache.layers[0].v[slot, :, :length] = k[:, :length], v[:, :length]
        cache.lengths[slot] = length
        builder = StepBuilder("decode", 12)
        builder.row = slot
        builder.add(slot, [0], length)
        rows = (x[:, length:].expand(-1, 12, -1).transpose(0, 1) for x in (q, k, v))
        with use_threads(num_threads):
            results.append(attention_of(builder.build(()), cache).attend(0, *rows, SCALE)[slot])
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_idle_slots_of_a_decode_step_are_neither_read_nor_written(dtype: torch.dtype) -> None:
    shape = LayerShape(2, DIM)
    cache = KVCache([shape], num_slots=4, max_length=20, dtype=dtype, device=torch.device("cpu"))
    cache.layers[0].k[3], cache.layers[0].v[3] = torch.nan, torch.nan
    before = cache.layers[0].k.clone()
    builder = StepBuilder("decode", 6)
    builder.row = 2
    builder.add(2, [0], 0)
    q = torch.randn(6, 2, DIM).to(dtype)
    out_NHD = attention_of(builder.build((FreshSlot(2, uses_prefix=False),)), cache).attend(0, q, q, q, SCALE)
    assert torch.allclose(out_NHD[2], q[2], atol=1e-3)  # the only key is its own
    assert torch.equal(cache.layers[0].k[[0, 1]], before[[0, 1]])
    assert torch.equal(cache.layers[0].k[2, :, 1:], before[2, :, 1:])
    assert out_NHD[:3].isfinite().all()
