"""A foreign model is compared with transformers when it is loaded, and refused where the engine differs."""

from __future__ import annotations

import re

import pytest
import torch
import transformers

from tests.model.families.random_models import LLAMA_LIKE, MODELS, WINDOW, random_model
from tests.model.tiny import tiny_model
from tirazh.errors import CheckpointError
from tirazh.model import foreign_network
from tirazh.model.attention.layer_shape import NO_RULES
from tirazh.model.engine import network
from tirazh.model.engine.runner import ModelRunner
from tirazh.model.engine.self_check import TOLERANCE, SelfCheck, tolerance_of
from tirazh.model.step import StepRows

ROWS = StepRows(prefill=64, decode=8, prefill_logits=4)


def checked(model: torch.nn.Module, max_length: int = 120) -> ModelRunner:
    check = SelfCheck(max_length)
    check.record(model)
    runner = ModelRunner(model, num_slots=3, max_length=max_length, logit_rows=8, prefill_logit_rows=4)
    check.compare(runner, ROWS)
    return runner


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["gemma2", "llama"])
def test_an_engine_that_computes_what_the_model_does_passes(name: str, dtype: torch.dtype) -> None:
    runner = checked(random_model(MODELS[name]()).to(dtype))
    assert runner.cache.lengths == [0, 0, 0]


def test_one_slot_and_few_positions_are_enough() -> None:
    checked(random_model(MODELS["llama"]()), max_length=4)


@pytest.mark.parametrize("lost", ["window", "softcap"])
def test_an_engine_without_a_window_or_softcap_of_the_model_is_refused(
    monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    config = MODELS["mistral" if lost == "window" else "gemma2"]()
    model = random_model(config)
    check = SelfCheck(120)
    check.record(model)
    shapes = [type(shape)(shape.num_heads, shape.head_dim) for shape in network.layer_shapes(model)]
    assert all(shape.rules == NO_RULES for shape in shapes)
    monkeypatch.setitem(foreign_network._traced, model, shapes)
    runner = ModelRunner(model, num_slots=3, max_length=120, logit_rows=8, prefill_logit_rows=4)
    with pytest.raises(
        CheckpointError, match=f"model_type {config.model_type} cannot be run: on a prompt of .* differ"
    ):
        check.compare(runner, ROWS)


def test_the_long_prompt_is_longer_than_the_window() -> None:
    check = SelfCheck(200)
    check.record(random_model(transformers.MistralConfig(**LLAMA_LIKE, sliding_window=5 * WINDOW)))
    assert [len(tokens) for tokens, _ in check._expected] == [6, 5 * WINDOW + 9]


def test_a_rugpt3_is_not_checked() -> None:
    check = SelfCheck(100)
    check.record(tiny_model())
    assert check._expected == []


def test_a_model_whose_layers_attend_by_themselves_is_refused() -> None:
    config = transformers.GPTJConfig(vocab_size=320, n_embd=64, n_layer=2, n_head=4, n_positions=64, rotary_dim=8)
    reason = "model_type gptj cannot be run: 0 of its 2 layers use the attention interface of transformers"
    with pytest.raises(CheckpointError, match=re.escape(reason)):
        network.layer_shapes(random_model(config))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("GptOssConfig", "passes s_aux to its attention"),
        ("DiffLlamaConfig", "computes attention twice in layer 0"),
    ],
)
def test_what_a_model_passes_to_attention_is_known_or_refused(config: str, reason: str) -> None:
    model = random_model(getattr(transformers, config)(**LLAMA_LIKE | {"num_hidden_layers": 1}))
    with pytest.raises(CheckpointError, match=reason):
        network.layer_shapes(model)


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_a_rope_that_looks_at_the_longest_row_runs_only_where_it_does_not(rope_type: str) -> None:
    rope = {"rope_type": rope_type, "rope_theta": 10000.0, "factor": 4.0}
    if rope_type == "longrope":
        rope |= {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "original_max_position_embeddings": 64}
    length = {"max_position_embeddings": 256 if rope_type == "longrope" else 64}
    model = random_model(transformers.LlamaConfig(**LLAMA_LIKE | length, rope_parameters=rope))
    checked(model, max_length=64)
    with pytest.raises(CheckpointError, match=f"model_type llama cannot be run at 65 tokens: its {rope_type}"):
        ModelRunner(model, num_slots=2, max_length=65)


def test_a_model_that_amplifies_rounding_may_differ_more_in_a_narrow_dtype_only() -> None:
    assert tolerance_of(torch.float32, 0.2) == TOLERANCE[torch.float32]
    assert tolerance_of(torch.bfloat16, 0.01) == TOLERANCE[torch.bfloat16]
    assert tolerance_of(torch.bfloat16, 0.1) == pytest.approx(0.3)
    assert tolerance_of(torch.bfloat16, 9.0) == 0.5, "an engine that computes something else is off by 1 or more"
