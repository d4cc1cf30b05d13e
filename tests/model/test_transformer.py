"""The model without transformers has the weights and the bits of the same model in transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given

from tests.model.tiny import random_prompts, sparse_configs, tiny_config, tiny_model
from tirazh.model.config import SPARSE_MODES, ModelConfig
from tirazh.model.gpt import RuGPT3Config, RuGPT3ForCausalLM
from tirazh.model.transformer import PlainLanguageModel


def plain(model: RuGPT3ForCausalLM) -> PlainLanguageModel:
    """The same weights without transformers."""
    own = PlainLanguageModel(model.config.to_model_config()).to(model.dtype)
    own.load_state_dict(model.state_dict())
    return own.eval()


def assert_same_logits(model: RuGPT3ForCausalLM, length: int) -> None:
    ids = torch.tensor(random_prompts([length, length]))
    with torch.inference_mode():
        assert torch.equal(plain(model)(ids).logits, model(ids).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("mode", SPARSE_MODES)
def test_the_logits_are_those_in_transformers_to_the_bit(mode: str, is_tied: bool, dtype: torch.dtype) -> None:
    model = tiny_model(sparse_mode=mode, tie_word_embeddings=is_tied, dtype=dtype)
    for length in (1, 17, 64):
        assert_same_logits(model, length)


@given(config=sparse_configs())
def test_so_they_are_for_every_pattern(config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = RuGPT3ForCausalLM(RuGPT3Config.from_model_config(config)).eval()
    assert_same_logits(model, min(40, config.max_position_embeddings))


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_a_model_without_memory_has_every_weight_of_one_in_transformers(is_tied: bool) -> None:
    config = tiny_config(tie_word_embeddings=is_tied)
    model = PlainLanguageModel.without_memory(config)
    whole = RuGPT3ForCausalLM(RuGPT3Config.from_model_config(config))
    shapes: dict[str, Any] = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in whole.state_dict().items()}
    assert all(weight.is_meta for weight in model.parameters())


def test_every_rank_keeps_the_pattern_of_its_own_heads() -> None:
    whole = PlainLanguageModel.without_memory(tiny_config(sparse_mode="all")).model.attentions[0].global_starts
    found = []
    for rank in range(4):
        model = PlainLanguageModel.without_memory(tiny_config(sparse_mode="all"))
        model.set_tensor_parallel(rank, 4)
        found += model.model.attentions[0].global_starts
    assert found == whole
