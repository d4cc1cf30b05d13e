"""The runner: its shared prefix is computed apart from its cache, so a failure there leaves the runner as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.model.tiny import random_prompts, tiny_model
from tirazh.model.attention.kv_cache import slot_bytes
from tirazh.model.engine.runner import ModelRunner, layer_shapes, slots_in
from tirazh.model.engine.sequences import StepBuilder
from tirazh.model.step import FreshSlot, Step

PROMPT, PREFIX = random_prompts([9, 40])
MODEL = tiny_model()


def new_runner() -> ModelRunner:
    return ModelRunner(tiny_model(num_layers=2), num_slots=2, max_length=100)


def prefill_step(*, uses_prefix: bool, start: int = 0) -> Step:
    builder = StepBuilder("prefill", 16)
    builder.add(1, PROMPT, start)
    builder.request_logits(1, 1)
    return builder.build((FreshSlot(1, uses_prefix=uses_prefix),))


def logits_of(runner: ModelRunner, step: Step) -> Tensor:
    return runner.execute(step).clone()


def test_computing_a_prefix_does_not_touch_the_slots() -> None:
    runner = new_runner()
    runner.set_prefix(PREFIX, 16)
    assert runner.cache.prefix is not None
    assert runner.cache.prefix.length == len(PREFIX)
    assert runner.cache.lengths == [0, 0]
    assert not any(layer.k.any() or layer.v.any() for layer in runner.cache.layers)
    expected = logits_of(new_runner(), prefill_step(uses_prefix=False))
    assert torch.equal(logits_of(runner, prefill_step(uses_prefix=False)), expected)


def test_a_prefix_that_cannot_be_computed_leaves_the_runner_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, expected = new_runner(), logits_of(new_runner(), prefill_step(uses_prefix=False))

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(runner.model.model, "run_step", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            runner.set_prefix(PREFIX, 16)
    assert runner.cache.prefix is None
    assert torch.equal(logits_of(runner, prefill_step(uses_prefix=False)), expected)
    runner.set_prefix(PREFIX, 16)
    behind = logits_of(runner, prefill_step(uses_prefix=True, start=len(PREFIX)))
    assert not torch.equal(behind, expected)


@settings(deadline=None)
@given(st.integers(1, 10**8), st.integers(1, 2048), st.integers(0, 2048))
def test_the_slots_and_the_shared_prefix_fit_in_the_memory_and_one_slot_more_does_not(
    num_bytes: int, max_length: int, prefix_length: int
) -> None:
    shapes = layer_shapes(MODEL)
    slots = slots_in(num_bytes, shapes, torch.bfloat16, max_length, prefix_length)
    own = slot_bytes(shapes, max_length, torch.bfloat16)
    prefix = slot_bytes(shapes, prefix_length, torch.bfloat16) if prefix_length else 0
    assert (slots + 1) * own + prefix > num_bytes
    assert slots == 1 or slots * own + prefix <= num_bytes
