"""An elementwise function gives an element the same bits wherever it is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.tiny import use_threads
from tirazh.model.layers.elementwise import in_whole_vectors


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(1, 24), st.integers(1, 4))
def test_rows_have_the_bits_that_they_have_alone(rows: int, columns: int, num_threads: int) -> None:
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) * 8
    with use_threads(num_threads):
        together = in_whole_vectors(torch.sigmoid, x)
    assert torch.equal(together, torch.stack([in_whole_vectors(torch.sigmoid, row) for row in x]))
    torch.testing.assert_close(together, torch.sigmoid(x))


@pytest.mark.parametrize("size", [0, 64, 40_000])
def test_any_size_and_strides(size: int) -> None:
    x = torch.randn(2, size).t()
    torch.testing.assert_close(in_whole_vectors(torch.exp, x), torch.exp(x))
