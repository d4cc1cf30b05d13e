"""The CPU backend merges attention over a slot's keys with that over the shared prefix as torch does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.model.tiny import use_threads
from tirazh.model.attention.backends.cpu import merge_call
from tirazh.model.attention.masked import merge_attention
from tirazh.model.kernels import build

pytestmark = pytest.mark.skipif(
    build.load_kernel("merge_attention") is None, reason="no C compiler on this machine: torch runs instead"
)
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-8}


def merged(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor, has_other: Tensor) -> Tensor:
    out = out.clone()
    call = merge_call(out, lse, other, other_lse)
    call.arguments.num_rows, call.arguments.has_other = len(out), has_other.data_ptr()
    call.run()
    return out


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9),
    heads=st.integers(1, 4),
    dim=st.sampled_from([1, 8, 16, 20, 64]),
    dtype=st.sampled_from(list(TOLERANCE)),
    distance=st.sampled_from([0.0, 1.0, 30.0, 200.0]),
    num_threads=st.integers(1, 3),
)
def test_a_merge_by_the_kernel_is_that_of_torch(
    rows: int, heads: int, dim: int, dtype: torch.dtype, distance: float, num_threads: int
) -> None:
    generator = torch.Generator().manual_seed(rows + heads + dim)
    out, other = (torch.randn(rows, heads, dim, generator=generator).to(dtype) for _ in range(2))
    lse, other_lse = (torch.randn(rows, heads, generator=generator) * distance for _ in range(2))
    has_other = torch.rand(rows, generator=generator) < 0.7
    other[~has_other], other_lse[~has_other] = torch.nan, torch.nan
    with use_threads(num_threads):
        result = merged(out, lse, other, other_lse, has_other)
    expected = merge_attention(out.float(), lse, other.float(), other_lse, has_other)  # torch rounds more in bfloat16
    assert torch.allclose(result.float(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    for row in range(rows):
        alone = merged(*(x[row : row + 1] for x in (out, lse, other, other_lse, has_other)))
        assert torch.equal(alone[0], result[row])


def test_a_slot_without_keys_gets_the_attention_over_the_prefix() -> None:
    out, other = torch.zeros(1, 1, 16), torch.randn(1, 1, 16)
    lse, other_lse = torch.full((1, 1), -torch.inf), torch.zeros(1, 1)
    assert torch.allclose(merged(out, lse, other, other_lse, torch.tensor([True])), other, atol=1e-6)
