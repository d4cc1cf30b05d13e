"""Sliding windows and softcaps in a step: every row gets what the plain formula gives for its own sequence."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tirazh.model.attention.backends.choose import build_attention
from tirazh.model.attention.kv_cache import KVCache
from tirazh.model.attention.layer_shape import NO_RULES, AttentionRules, LayerShape
from tirazh.model.attention.step_layout import append_step
from tirazh.model.engine.labels.trie import build_trie
from tirazh.model.engine.sequences import StepBuilder
from tirazh.model.step import FreshSlot

HEADS, KV_HEADS, DIM, SCALE = 4, 2, 16, 0.3


def by_formula(q_THD: Tensor, k_SKD: Tensor, v_SKD: Tensor, rules: AttentionRules) -> Tensor:
    """The last T of S positions over all S: [T, H, D]."""
    k, v = (x.repeat_interleave(HEADS // KV_HEADS, dim=1) for x in (k_SKD, v_SKD))
    scores = torch.einsum("thd,shd->hts", q_THD, k) * SCALE
    if rules.softcap is not None:
        scores = rules.softcap * torch.tanh(scores / rules.softcap)
    keys = torch.arange(len(k))
    queries = keys[len(k) - len(q_THD) :, None]
    hidden = keys[None] > queries
    if rules.window is not None:
        hidden |= keys[None] <= queries - rules.window
    return torch.einsum("hts,shd->thd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)


def tokens(generator: torch.Generator, length: int) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.randn(length, HEADS, DIM, generator=generator) * 2,
        torch.randn(length, KV_HEADS, DIM, generator=generator),
        torch.randn(length, KV_HEADS, DIM, generator=generator),
    )


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    window=st.one_of(st.none(), st.integers(1, 14)),
    softcap=st.sampled_from([None, 1.5]),
    num_prefix=st.integers(0, 9),
)
def test_chunks_decoded_tokens_and_label_tries_see_their_window(
    lengths: list[int], window: int | None, softcap: float | None, num_prefix: int
) -> None:
    rules = AttentionRules(window, softcap)
    generator = torch.Generator().manual_seed(0)
    shape = LayerShape(KV_HEADS, DIM, rules=rules)

    def new_cache(num_slots: int) -> KVCache:
        cpu = torch.device("cpu")
        return KVCache([shape], num_slots=num_slots, max_length=80, dtype=torch.float32, device=cpu)

    def attend(cache: KVCache, builder: StepBuilder, fresh: tuple[FreshSlot, ...], new: list[Tensor]) -> Tensor:
        return build_attention(append_step(builder.build(fresh), cache), cache).attend(0, *new, SCALE)

    shared = tokens(generator, num_prefix)
    cache = new_cache(2)
    if num_prefix:
        first = new_cache(1)
        builder = StepBuilder("prefill", num_prefix)
        builder.add(0, [0] * num_prefix, 0)
        attend(first, builder, (FreshSlot(0, uses_prefix=False),), list(shared))
        cache.prefix = first.to_prefix()
    seen = list(shared)
    trie = build_trie(((5, 6, 7), (5, 8), (9, 1, 1, 1)))
    for index, length in enumerate(lengths):
        phase = "decode" if length == 1 and index else "prefill"
        builder = StepBuilder(phase, 40)
        builder.row = 3  # rows before and behind belong to nobody
        new = tokens(generator, 40)
        builder.add(1, [0] * length, len(seen[0]))
        if phase == "prefill":
            builder.add_trie(1, trie, len(seen[0]) + length)
        fresh = (FreshSlot(1, uses_prefix=num_prefix > 0),) if index == 0 else ()
        out = attend(cache, builder, fresh, list(new))
        own = [x[3 : 3 + length] for x in new]
        seen = [torch.cat([old, x]) for old, x in zip(seen, own, strict=True)]
        torch.testing.assert_close(out[3 : 3 + length], by_formula(own[0], seen[1], seen[2], rules), atol=2e-5, rtol=0)
        if phase == "prefill":
            for node in range(trie.num_nodes):
                path = [node]
                while trie.parents[path[0]] >= 0:
                    path.insert(0, trie.parents[path[0]])
                rows = [3 + length + each for each in path]
                keys, values = (torch.cat([old, x[rows]]) for old, x in zip(seen[1:], new[1:], strict=True))
                wanted = by_formula(new[0][rows[-1:]], keys, values, rules)
                torch.testing.assert_close(out[rows[-1:]], wanted, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("max_length", "window"), [(8, None), (16, None), (17, 16)])
def test_a_window_that_holds_every_sequence_is_none(max_length: int, window: int | None) -> None:
    assert AttentionRules(window=16).within(max_length) == AttentionRules(window=window)
    assert NO_RULES.within(max_length) == NO_RULES
