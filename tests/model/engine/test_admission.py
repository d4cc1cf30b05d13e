"""Sequences begin while memory has room for what all of them may come to; rows do not change by it."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.tiny import RecordingRunner, build_engine, random_prompts, run, tiny_model
from tirazh.model.attention.kv_cache import KVCache
from tirazh.model.attention.layer_shape import LayerShape
from tirazh.model.engine.admission import Admission
from tirazh.model.engine.sequences import ActiveSequence
from tirazh.model.requests import EngineJob, GenerateRequest, SamplingParams

PAGE = 4096


class Memory:
    """A host with `size` bytes, of which slots take what their tokens need and give nothing back."""

    def __init__(self, size: int, num_slots: int, *, token_bytes: int = 1) -> None:
        self.size, self.token_bytes = size, token_bytes
        self.taken = [0] * num_slots
        self.admission = Admission(num_slots, bytes_of=lambda n: n * token_bytes, free_bytes=self.free)

    def free(self) -> int:
        return self.size - sum(self.taken)

    def hold(self, slot: int, num_tokens: int) -> None:
        self.taken[slot] = max(self.taken[slot], num_tokens * self.token_bytes)


def test_half_of_what_is_free_is_promised() -> None:
    memory = Memory(100, 4)
    memory.admission.look([0] * 4)
    assert [memory.admission.admit(slot, 20) for slot in range(3)] == [True, True, False]


def test_memory_that_a_slot_has_taken_need_not_be_found_again() -> None:
    memory = Memory(100, 2)
    memory.admission.look([0, 0])
    assert memory.admission.admit(0, 40)
    memory.hold(0, 40)
    memory.admission.leave(0, 40)
    memory.admission.look([0, 0])
    assert memory.admission.admit(0, 40)  # 60 are free, and none of them is needed
    assert memory.admission.admit(1, 30)


def test_what_a_running_sequence_holds_is_not_counted_again() -> None:
    memory = Memory(100, 2)
    memory.admission.look([0, 0])
    assert memory.admission.admit(0, 40)
    memory.hold(0, 40)
    memory.admission.look([40, 0])
    assert memory.admission.admit(1, 25)


def test_a_sequence_s_own_tokens_are_those_behind_the_shared_prefix() -> None:
    request = GenerateRequest(prompt_token_ids=tuple(range(10)), sampling=SamplingParams(max_new_tokens=5), seed=0)
    sequence = ActiveSequence(
        0, request, tuple(range(10)), 5, num_shared=4, num_cached=7, new_tokens=[1], num_pending=1
    )
    assert sequence.num_own == 3 + 2
    assert sequence.most_own == 6 + 5


def test_one_may_always_begin(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory(0, 2)
    with caplog.at_level(logging.WARNING):
        memory.admission.look([0, 0])
        assert memory.admission.admit(0, 1000)
        assert not memory.admission.admit(1, 1)
        assert not memory.admission.admit(1, 1)
    assert [record.message for record in caplog.records] == [
        "memory has room for 1 sequences at once, fewer than --slots: others wait"
    ]


def test_everybody_may_begin_where_nothing_is_known() -> None:
    admission = Admission(3, bytes_of=lambda n: n, free_bytes=lambda: None)
    admission.look([0] * 3)
    assert all(admission.admit(slot, 1 << 60) for slot in range(3))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=40), st.integers(40, 400))
def test_memory_is_never_outgrown_and_nobody_waits_for_ever(lengths: list[tuple[int, int]], size: int) -> None:
    """Sequences of some length that may have come to more; each grows by one token a step."""
    memory, waiting = Memory(size, 5), list(lengths)
    running: dict[int, tuple[int, int]] = {}  # slot: tokens now, tokens in the end
    while waiting or running:
        memory.admission.look([running.get(slot, (0, 0))[0] for slot in range(5)])
        for slot in range(5):
            if slot in running or not waiting:
                continue
            actual, more = waiting[0]
            if not memory.admission.admit(slot, actual + more):
                break
            running[slot] = (0, waiting.pop(0)[0])
        assert running
        for slot, (now, end) in list(running.items()):
            running[slot] = (now + 1, end)
            memory.hold(slot, now + 1)
            if now + 1 == end:
                memory.admission.leave(slot, end)
                del running[slot]
        assert memory.free() >= 0


@pytest.mark.parametrize(("size", "least", "most"), [(0, 1, 1), (300, 2, 7), (1 << 40, 8, 8)])
def test_an_engine_runs_as_many_as_fit_and_makes_the_same_rows(size: int, least: int, most: int) -> None:
    model, prefix = tiny_model(), random_prompts([30], seed=5)[0]
    prompts = [prefix + prompt for prompt in random_prompts([5, 40, 17, 60, 3, 25])]
    prompts += random_prompts([50, 20], seed=8)
    ways = SamplingParams(max_new_tokens=9, temperature=1.0)
    requests = [GenerateRequest(prompt_token_ids=prompt, sampling=ways, seed=i) for i, prompt in enumerate(prompts)]
    job = EngineJob(prefix_token_ids=prefix)
    expected = run(build_engine(model, num_slots=8, job=job), requests)
    memory = Memory(size, 8)
    engine = build_engine(model, num_slots=8, job=job, admission=memory.admission)
    ids, results, running = engine.add(requests), {}, []
    assert isinstance(engine.runner, RecordingRunner)
    while engine.has_work:
        results |= dict(engine.step())
        running.append(sum(holder is not None for holder in engine._slots))
        for slot in range(8):
            memory.hold(slot, engine.runner.runner.cache.own_length(slot))
        assert memory.free() >= 0 or size == 0
    assert [results[id] for id in ids] == expected
    assert least <= max(running) <= most


def test_bytes_that_a_slot_takes_are_whole_pages() -> None:
    shapes = [LayerShape(3, 64), LayerShape(3, 64), LayerShape(2, 16)]
    cache = KVCache(shapes, num_slots=1, max_length=300, dtype=torch.float32, device=torch.device("cpu"))
    assert cache.bytes_taken(0) == 0
    assert cache.bytes_taken(1) == (2 * 3 + 2) * 2 * PAGE
    assert cache.bytes_taken(17) == (2 * 3 * 2 + 2) * 2 * PAGE
    assert cache.bytes_taken(300) >= cache.bytes_kept(300)
