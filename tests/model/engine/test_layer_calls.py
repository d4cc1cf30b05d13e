"""Layers run by prepared calls of kernels give the bits that torch's modules give, for every kind of step."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from tests.model.engine.layer_call_cases import (
    KINDS,
    Kind,
    Steps,
    any_steps,
    are_equal,
    modules,
    packed_model,
    skip_without_kernels,
)
from tests.model.tiny import NUM_TOKENS, build_engine, greedy_requests, random_prompts, run, tiny_model
from tirazh.model.engine.layer_calls import can_prepare
from tirazh.model.engine.runner import ModelRunner
from tirazh.model.layers.packed_linear import pack_linears

FLOAT = KINDS[0]

pytestmark = pytest.mark.skipif(
    not can_prepare(packed_model(FLOAT).model), reason="no kernels of ours for float32 on this machine"
)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@settings(max_examples=12, deadline=None)
@given(steps=any_steps())
def test_prepared_calls_give_the_bits_of_the_modules(kind: Kind, steps: Steps) -> None:
    skip_without_kernels(kind)
    prepared = steps.logits(packed_model(kind))
    with modules():
        expected = steps.logits(packed_model(kind))
    assert are_equal(prepared, expected)


def test_every_layer_is_reported() -> None:
    model, reported = packed_model(FLOAT), []
    runner = ModelRunner(model, num_slots=2, max_length=64)
    runner.on_progress = lambda: reported.append(1)
    runner.set_prefix(tuple(range(10)), 16)
    assert len(reported) == len(model.model.layers)


def test_a_longer_step_than_all_before_gets_larger_buffers() -> None:
    lengths = ([3], [3, 200], [150, 120, 3])
    model = tiny_model(num_layers=2, hidden_size=128)
    pack_linears(model, rows=8)
    engine = build_engine(model, max_length=300, prefill_rows=256)
    for each in lengths:
        prompts = random_prompts(each)
        results = run(engine, greedy_requests(prompts))
        alone = [run(build_engine(model, max_length=300, prefill_rows=256), greedy_requests([p]))[0] for p in prompts]
        assert results == alone


def test_a_model_with_other_layers_keeps_its_modules() -> None:
    assert not can_prepare(tiny_model(num_layers=2, hidden_size=128).model)  # not packed
    assert not can_prepare(tiny_model(num_layers=2, hidden_size=128))  # not a transformer
    narrow = tiny_model(num_layers=2)  # heads of 8, which no kernel takes
    pack_linears(narrow, rows=8)
    assert not can_prepare(narrow.model)


def test_tokens_outside_the_vocabulary_are_refused() -> None:
    runner = ModelRunner(packed_model(FLOAT), num_slots=1, max_length=64)
    with pytest.raises(IndexError):
        runner.set_prefix((NUM_TOKENS + 1000,), 16)
