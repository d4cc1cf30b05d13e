"""A float32 linear of our own kernel equals the plain one, and a row's bits depend on that row alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.model.layers.linear_examples import draw, expected
from tests.model.tiny import use_threads
from tirazh.model.kernels import build
from tirazh.model.layers.float_linear import FloatLinear
from tirazh.model.layers.kernel_linear import Activation
from tirazh.model.layers.packed_linear import PackedLinear, pack_weight, rows_are_independent

needs_kernel = pytest.mark.skipif(
    not FloatLinear.can_multiply(torch.zeros(8, 8)), reason="no AVX2, or no C compiler: oneDNN multiplies"
)
quick = settings(max_examples=40, deadline=None)
# Rows that fill blocks and rows that do not; inputs of one part and of several; panels that are not full.
ROWS, INPUTS, OUTPUTS = st.integers(1, 140), st.sampled_from([1, 7, 96, 128, 129, 700]), st.integers(1, 130)
BOUND = 2e-6  # of sums of products that are about 1


@needs_kernel
@quick
@given(ROWS, INPUTS, OUTPUTS, st.sampled_from(["none", "gelu"]), st.booleans())
def test_it_equals_the_plain_linear(
    rows: int, inputs: int, outputs: int, activation: Activation, has_bias: bool
) -> None:
    x, weight, bias = draw(rows, inputs, outputs, torch.float32)
    linear = FloatLinear(weight, bias if has_bias else None, activation=activation)
    right = expected(x, weight, bias if has_bias else None, activation)
    assert ((linear(x).double() - right).abs() <= BOUND * (1 + right.abs())).all()
    assert torch.equal(linear(x[None, :, None]), linear(x)[None, :, None])


@needs_kernel
@quick
@given(ROWS, INPUTS, OUTPUTS, st.integers(1, 4), st.data())
def test_a_row_has_the_bits_that_it_has_alone(
    rows: int, inputs: int, outputs: int, num_threads: int, data: st.DataObject
) -> None:
    x, weight, bias = draw(rows, inputs, outputs, torch.float32)
    linear = FloatLinear(weight, bias, activation="gelu")
    row, bad = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, rows - 1))
    if bad != row:
        x[bad] = torch.nan  # which stays where it is
    with use_threads(num_threads):
        together = linear(x)
    with use_threads(1):
        assert torch.equal(linear(x[row]), together[row])


@needs_kernel
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(512, 3072, 768), (64, 768, 5000), (16, 2048, 96)])
def test_it_is_exact_at_the_sizes_of_real_steps(rows: int, inputs: int, outputs: int) -> None:
    x, weight, bias = draw(rows, inputs, outputs, torch.float32)
    right = expected(x, weight, bias, "none")
    assert ((FloatLinear(weight, bias)(x).double() - right).abs() <= BOUND * (1 + right.abs())).all()


@needs_kernel
def test_gelu_is_nearly_exact() -> None:
    """By a bias of each, over inputs of zero; torch's own is off by up to 1e-7."""
    every = torch.linspace(-12, 12, 100_003)
    right = nn.functional.gelu(every.double(), approximate="tanh")
    got = FloatLinear(torch.zeros(len(every), 1), every, activation="gelu")(torch.zeros(1, 1))[0]
    assert ((got.double() - right).abs() <= 5e-7 * right.abs() + 4e-9).all()


@needs_kernel
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_non_finite_inputs_give_what_torch_gives(bad: float, activation: Activation) -> None:
    x, weight, bias = draw(20, 64, 40, torch.float32)
    x[3, 5], bias[7] = bad, bad
    got, right = FloatLinear(weight, bias, activation=activation)(x), expected(x, weight, bias, activation)
    assert torch.equal(got.isnan(), right.isnan())
    assert torch.equal(got.isinf(), right.isinf())


@needs_kernel
def test_a_model_of_such_linears_needs_no_padded_steps() -> None:
    linear = pack_weight(torch.zeros(8, 8), None, rows=64)
    assert isinstance(linear, FloatLinear)
    assert rows_are_independent(nn.Sequential(linear))
    assert not rows_are_independent(nn.Sequential(linear, nn.Linear(8, 8)))


@pytest.mark.parametrize("weight", [torch.zeros(8, 8, dtype=torch.bfloat16), torch.zeros(8), torch.zeros(8, 0)])
def test_other_weights_are_refused(weight: Tensor) -> None:
    assert not FloatLinear.can_multiply(weight)
    with pytest.raises(ValueError, match="kernel linear_float"):
        FloatLinear(weight, None)


def test_without_the_kernel_onednn_computes_the_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build.OFF_SWITCH, "off")
    build.load_kernel.cache_clear()
    try:
        assert isinstance(pack_weight(torch.zeros(32, 32), None, rows=64), PackedLinear)
    finally:
        build.load_kernel.cache_clear()
