"""A packed linear computes what a plain one does, for any number of rows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.model.tiny import random_prompts, tiny_model
from tirazh.model.layers.packed_linear import PackedLinear, can_pack, pack_linears

DTYPES = [dtype for dtype in (torch.float32, torch.bfloat16) if can_pack(torch.zeros(2, 2, dtype=dtype))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 5, 64, 200])
@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_a_packed_linear_equals_the_plain_linear(dtype: torch.dtype, rows: int, activation: str) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 80).to(dtype)
    x = torch.randn(2, rows, 96).to(dtype)
    with torch.inference_mode():
        expected = linear.double()(x.double())
        if activation == "gelu":
            expected = nn.functional.gelu(expected, approximate="tanh")
        packed = PackedLinear(linear.weight.to(dtype), linear.bias.to(dtype), rows=64, activation=activation)
        assert (packed(x).double() - expected).abs().max() < (1e-5 if dtype == torch.float32 else 0.03)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_packing_a_whole_model_keeps_its_logits(dtype: torch.dtype) -> None:
    model = tiny_model(dtype=dtype)
    tokens = torch.tensor([list(prompt) for prompt in random_prompts([40, 40])])
    with torch.inference_mode():
        expected = model(tokens).logits.float()
        pack_linears(model, rows=64)
        got = model(tokens).logits.float()
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
    assert (got - expected).abs().max() < (1e-4 if dtype == torch.float32 else 0.5)


def test_packing_a_tied_head_leaves_the_embeddings_unpacked() -> None:
    model = tiny_model()
    before = model.model.embed_tokens.weight.clone()
    pack_linears(model, rows=64)
    assert torch.equal(model.model.embed_tokens.weight, before)
    assert model.get_output_embeddings().out_features == before.shape[0]


def test_a_dtype_that_onednn_cannot_pack_stays_a_plain_linear() -> None:
    model = nn.Sequential(nn.Linear(4, 4, dtype=torch.float64))
    pack_linears(model, rows=64)
    assert isinstance(model[0], nn.Linear)
