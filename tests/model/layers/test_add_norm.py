"""Residual addition and LayerNorm in one pass give the same as in two, and a row's bits depend on that row alone."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.model.tiny import use_threads
from tirazh.model.layers.add_norm import add_norm
from tirazh.model.layers.packed_linear import GeluLinear

HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
# The interpreter does not know bfloat16.
DTYPES = [torch.float32, torch.bfloat16 if HAS_GPU or os.environ.get("TRITON_INTERPRET") != "1" else torch.float16]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.03, torch.float16: 0.005}


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.sampled_from([16, 64, 100, 768]), st.sampled_from(DTYPES))
def test_add_norm_returns_the_sum_and_its_layer_norm(rows: int, size: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(rows)
    hidden, update = (torch.randn(1, rows, size, generator=generator).to(DEVICE, dtype) for _ in range(2))
    norm = nn.LayerNorm(size).to(DEVICE, dtype)
    with torch.inference_mode():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(size, generator=generator))
        total, normed = add_norm(hidden, update, norm)
        assert torch.equal(total, hidden + update)
        assert (normed.float() - norm.float()(total.float())).abs().max() < TOLERANCE[dtype]


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 40), st.sampled_from([16, 64, 768]), st.sampled_from(DTYPES), st.sampled_from([1, 2, 3]))
def test_add_norm_gives_a_row_the_bits_that_it_has_alone(
    rows: int, size: int, dtype: torch.dtype, num_threads: int
) -> None:
    generator = torch.Generator().manual_seed(rows)
    hidden, update = (torch.randn(rows, size, generator=generator).to(DEVICE, dtype) for _ in range(2))
    norm = nn.LayerNorm(size).to(DEVICE, dtype)
    hidden[0] = torch.nan  # which stays where it is
    with torch.inference_mode():
        with use_threads(num_threads):
            together = add_norm(hidden, update, norm)
        for row in range(1, rows):
            for part, whole in zip(add_norm(hidden[row], update[row], norm), together, strict=True):
                assert torch.equal(part, whole[row])
    assert together[1][0].isnan().all()


def test_gradients_flow_through_add_norm() -> None:
    hidden, update = (torch.randn(2, 3, 16, requires_grad=True) for _ in range(2))
    _, normed = add_norm(hidden, update, nn.LayerNorm(16))
    normed.square().sum().backward()
    assert hidden.grad is not None
    assert torch.equal(hidden.grad, update.grad)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gelu_fused_into_the_matmul_equals_gelu_after_it(dtype: torch.dtype) -> None:
    linear, x = nn.Linear(96, 80, device="cuda", dtype=dtype), torch.randn(2, 7, 96, device="cuda", dtype=dtype)
    with torch.inference_mode():
        expected = nn.functional.gelu(linear(x), approximate="tanh")
        assert (GeluLinear(linear)(x) - expected).abs().max() < TOLERANCE[dtype]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_rows_wider_than_a_triton_program_are_computed_by_torch() -> None:
    hidden = torch.randn(1, 32768)
    total, normed = add_norm(hidden, hidden, nn.LayerNorm(32768))
    assert torch.equal(total, hidden + hidden)
    assert normed.shape == hidden.shape
