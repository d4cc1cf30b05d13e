"""Layers run by prepared calls of kernels give the bits that torch's modules give, for every kind of step."""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Sequence
from unittest.mock import patch

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
from tests.model.tiny import NUM_TOKENS, PREFILL_ROWS, build_engine, greedy_requests, random_prompts, run, tiny_model
from tirazh.model.engine import layer_calls as layer_calls_module
from tirazh.model.engine.batch_engine import BatchEngine
from tirazh.model.engine.layer_calls import can_prepare
from tirazh.model.engine.runner import ModelRunner
from tirazh.model.engine.scheduler import Scheduler
from tirazh.model.kernels import calls as calls_module
from tirazh.model.kernels.calls import CallList, KernelCall
from tirazh.model.layers.packed_linear import pack_linears
from tirazh.model.requests import EngineJob

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


def test_progress_is_reported_at_the_end_of_a_step_and_while_it_takes_long() -> None:
    model, reported = packed_model(FLOAT), []
    runner = ModelRunner(model, num_slots=2, max_length=64)
    runner.on_progress = lambda: reported.append(1)
    runner.set_prefix(tuple(range(10)), 16)
    assert len(reported) == 1
    with patch.object(calls_module, "_INTERVAL_S", ctypes.c_double(0)):
        runner.set_prefix(tuple(range(10)), 16)
    assert len(reported) == 1 + 7 * len(model.model.layers) + 1  # every kernel takes longer than no time


def test_steps_of_a_form_share_their_calls_and_those_of_another_cache_do_not_outlive_it() -> None:
    model, lists = packed_model(FLOAT), weakref.WeakSet[CallList]()

    def make(calls: Sequence[KernelCall]) -> CallList:
        lists.add(made := CallList(calls))
        return made

    with patch.object(layer_calls_module, "CallList", make):
        runner = ModelRunner(model, num_slots=2, max_length=64)
        for length in (10, 10, 20):
            runner.set_prefix(tuple(range(length)), 16)  # in a cache of its own
        gc.collect()
        assert not lists
        engine = build_engine(model)
        for lengths in ([5, 9, 3], [7], [20, 1]):
            run(engine, greedy_requests(random_prompts(lengths)))
        assert len(lists) == 2  # of prefill and decode steps


def test_calls_do_not_keep_a_prefix_that_was_replaced() -> None:
    model, prefix = packed_model(FLOAT), tuple(random_prompts([16])[0])
    engine = build_engine(model, job=EngineJob(prefix_token_ids=prefix))
    run(engine, greedy_requests([(*prefix, 1, 2), (*prefix, 3)]))
    runner = engine.runner.runner  # type: ignore[attr-defined]
    keys = weakref.ref(runner.cache.prefix.layers[0].shared.k)
    runner.set_prefix((), PREFILL_ROWS)
    gc.collect()
    assert keys() is None


def test_a_new_prefix_is_read_in_the_place_of_another_one() -> None:
    model = packed_model(FLOAT)
    prompts = random_prompts([5, 9])
    used = build_engine(model)
    for prefix in random_prompts([16, 16, 37], seed=5):
        requests = greedy_requests([prefix + prompt for prompt in prompts])
        job = EngineJob(prefix_token_ids=prefix)
        used.runner.runner.set_prefix(prefix, PREFILL_ROWS)  # type: ignore[attr-defined]
        scheduler = Scheduler(used.scheduler.config, job, window_size=used.runner.window_size)  # type: ignore[attr-defined]
        results = run(BatchEngine(used.runner, scheduler), requests)
        assert results == run(build_engine(model, job=job), requests)


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
