"""Sequences start only while memory can hold what all of them may come to; admission changes no
result."""

from __future__ import annotations

import logging
from itertools import takewhile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.tiny import RecordingRunner, build_engine, random_prompts, run, tiny_model
from tirazh.model.attention.kv_cache import KVCache
from tirazh.model.attention.layer_shape import LayerShape
from tirazh.model.engine.admission import Admission
from tirazh.model.requests import EngineJob, GenerateRequest, SamplingParams

PAGE = 4096


class Memory:
    """A host with `size` bytes. Slots allocate what their tokens need and give nothing back."""

    def __init__(self, size: int, num_slots: int, *, token_bytes: int = 1) -> None:
        self.size, self.token_bytes = size, token_bytes
        self.held = [0] * num_slots
        self.admission = Admission(num_slots, bytes_of=lambda n: n * token_bytes, free_bytes=self.free)

    def free(self) -> int:
        return self.size - sum(self.held)

    def admit(self, num_tokens: list[int], candidates: list[tuple[int, int]]) -> int:
        """Admit candidates, (slot, most tokens) each, until one does not fit; return how many were admitted."""
        self.admission.measure(num_tokens)
        return len(list(takewhile(lambda each: self.admission.admit(*each), candidates)))

    def hold(self, slot: int, num_tokens: int) -> None:
        self.held[slot] = max(self.held[slot], num_tokens * self.token_bytes)


def test_at_most_half_of_the_free_memory_is_promised() -> None:
    assert Memory(100, 4).admit([0] * 4, [(0, 20), (1, 20), (2, 20)]) == 2


def test_memory_that_a_slot_holds_serves_its_next_sequence() -> None:
    memory = Memory(100, 2)
    assert memory.admit([0, 0], [(0, 40)]) == 1
    memory.hold(0, 40)
    memory.admission.release(0, 40)
    assert memory.admit([0, 0], [(0, 40), (1, 30)]) == 2  # 60 are free, and slot 0 needs none of them


def test_memory_that_a_running_sequence_holds_is_not_counted_twice() -> None:
    memory = Memory(100, 2)
    assert memory.admit([0, 0], [(0, 40)]) == 1
    memory.hold(0, 40)
    assert memory.admit([40, 0], [(1, 25)]) == 1


def test_one_sequence_always_runs_and_the_waiting_ones_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory(0, 2)
    with caplog.at_level(logging.WARNING):
        assert memory.admit([0, 0], [(0, 1000), (1, 1)]) == 1
        assert memory.admit([0, 0], [(1, 1)]) == 0
    assert [record.message for record in caplog.records] == [
        "memory holds only 1 sequences at once, fewer than --slots: the others wait"
    ]


def test_every_sequence_is_admitted_where_the_free_memory_is_unknown() -> None:
    admission = Admission(3, bytes_of=lambda n: n, free_bytes=lambda: None)
    admission.measure([0] * 3)
    assert all(admission.admit(slot, 1 << 60) for slot in range(3))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=40), st.integers(40, 400))
def test_memory_is_never_exhausted_and_every_sequence_runs_in_the_end(
    lengths: list[tuple[int, int]], size: int
) -> None:
    """Sequences of some length, each of which might have grown longer; a running one grows by one
    token a step."""
    memory, waiting = Memory(size, 5), list(lengths)
    running: dict[int, tuple[int, int]] = {}  # slot: tokens now, tokens in the end
    while waiting or running:
        free = [slot for slot in range(5) if slot not in running]
        candidates = [(slot, sum(waiting[i])) for i, slot in enumerate(free[: len(waiting)])]
        held = [running.get(slot, (0, 0))[0] for slot in range(5)]
        for slot, _ in candidates[: memory.admit(held, candidates)]:
            running[slot] = (0, waiting.pop(0)[0])
        assert running
        for slot, (now, end) in list(running.items()):
            running[slot] = (now + 1, end)
            memory.hold(slot, now + 1)
            if now + 1 == end:
                memory.admission.release(slot, end)
                del running[slot]
        assert memory.free() >= 0


@pytest.mark.parametrize(("size", "least", "most"), [(0, 1, 1), (300, 2, 7), (1 << 40, 8, 8)])
def test_an_engine_runs_as_many_sequences_as_fit_and_gets_the_same_rows(size: int, least: int, most: int) -> None:
    model, prefix = tiny_model(), random_prompts([30], seed=5)[0]
    prompts = [prefix + prompt for prompt in random_prompts([5, 40, 17, 60, 3, 25])]
    prompts += random_prompts([50, 20], seed=8)
    sampling = SamplingParams(max_new_tokens=9, temperature=1.0)
    requests = [GenerateRequest(prompt_token_ids=prompt, sampling=sampling, seed=i) for i, prompt in enumerate(prompts)]
    job = EngineJob(prefix_token_ids=prefix)
    expected = run(build_engine(model, num_slots=8, job=job), requests)
    memory = Memory(size, 8)
    engine = build_engine(model, num_slots=8, job=job, admission=memory.admission)
    ids, results, running = engine.add(requests), {}, []
    assert isinstance(engine.runner, RecordingRunner)
    while engine.has_work:
        results |= dict(engine.step())
        running.append(sum(owner is not None for owner in engine.scheduler.slots))
        for slot in range(8):
            memory.hold(slot, engine.runner.runner.cache.own_length(slot))
        assert memory.free() >= 0 or size == 0
    assert [results[id] for id in ids] == expected
    assert least <= max(running) <= most


def test_bytes_that_a_slot_takes_are_whole_pages() -> None:
    shapes = [LayerShape(3, 64), LayerShape(3, 64), LayerShape(2, 32)]
    cache = KVCache(shapes, num_slots=1, max_length=512, dtype=torch.float32, device=torch.device("cpu"))
    assert cache.bytes_taken(0) == 0
    assert cache.bytes_taken(1) == (2 * 3 + 2) * 2 * PAGE
    assert cache.bytes_taken(17) == (2 * 3 * 2 + 2) * 2 * PAGE
    assert cache.bytes_taken(512) == cache.bytes_kept(512)


@pytest.mark.parametrize("dim", [16, 48, 64, 80, 100])
@pytest.mark.parametrize("length", [1, 40, 200, 511, 1000])
def test_bytes_that_a_slot_takes_are_right_for_heads_that_share_pages(dim: int, length: int) -> None:
    """Counted page by page over a whole number of slots, whose heads begin everywhere in a page."""
    num_slots, heads, max_length = PAGE, 2, 1000
    shapes = [LayerShape(heads, dim)]
    cache = KVCache(shapes, num_slots=1, max_length=max_length, dtype=torch.bfloat16, device=torch.device("cpu"))
    head_bytes = cache.layers[0].k.stride(1) * 2
    pages: set[int] = set()
    begins = np.arange(num_slots * heads, dtype=np.int64) * head_bytes
    for begin, end in zip((begins // PAGE).tolist(), ((begins + length * dim * 2 - 1) // PAGE).tolist(), strict=True):
        pages.update(range(begin, end + 1))
    really = 2 * len(pages) * PAGE  # keys and values
    assert really <= num_slots * cache.bytes_taken(length) <= 1.2 * really
