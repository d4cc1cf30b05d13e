"""A linear layer of 8 bits is the exact product of rounded integers, and a row's bits depend on that row alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.model.layers import linear_examples
from tests.model.tiny import use_threads
from tirazh.errors import RequestError
from tirazh.model.kernels import build
from tirazh.model.kernels.build import load_kernel
from tirazh.model.layers.int8_linear import (
    GROUP,
    Int8Linear,
    can_round,
    check_all_int8,
    round_rows,
    round_weight,
)
from tirazh.model.layers.kernel_linear import Activation
from tirazh.model.layers.packed_linear import pack_linears, rows_are_independent

needs_kernel = pytest.mark.skipif(load_kernel("linear_int8") is None, reason="no C compiler")
quick = settings(max_examples=60, deadline=None)
# Rows that fill blocks and rows that do not; inputs of one group, of several and of a part; panels that are not full.
ROWS, INPUTS, OUTPUTS = (
    st.integers(1, 140),
    st.sampled_from([1, 3, 4, 96, 127, 128, 129, 640, 700]),
    st.integers(1, 130),
)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16])
ACTIVATIONS = st.sampled_from(["none", "gelu"])


def draw(rows: int, inputs: int, outputs: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    x, weight, bias = linear_examples.draw(rows, inputs, outputs, torch.float32)
    if inputs > 8:  # what trained models have: a few inputs far above the others, here in every second row
        x[::2, [3, inputs - 2]] *= 60
    return x.to(dtype), weight, bias


def exact(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation) -> Tensor:
    """The same rounded values, multiplied as int64 and scaled in float64."""
    columns, column_scales = round_weight(weight)
    total = np.zeros((len(x), len(weight)))
    for group, start in enumerate(range(0, x.shape[1], GROUP)):
        some = slice(start, start + GROUP)
        for rows, scales in round_rows(x.float()):
            product = rows[:, some].numpy().astype(np.int64) @ columns[:, some].numpy().astype(np.int64).T
            total += product * scales[:, group : group + 1].double().numpy() * column_scales[:, group].double().numpy()
    out = torch.from_numpy(total)
    if bias is not None:
        out = out + bias.double()
    return nn.functional.gelu(out, approximate="tanh") if activation == "gelu" else out


@needs_kernel
@quick
@given(ROWS, INPUTS, OUTPUTS, ACTIVATIONS, st.booleans(), DTYPES)
def test_it_equals_the_product_of_the_rounded_integers(
    rows: int, inputs: int, outputs: int, activation: Activation, has_bias: bool, dtype: torch.dtype
) -> None:
    x, weight, bias = draw(rows, inputs, outputs, dtype)
    linear = Int8Linear(weight, bias if has_bias else None, activation=activation)
    right = exact(x, weight, bias if has_bias else None, activation)
    bound = 2e-6 if dtype == torch.float32 else 2.0**-8
    assert linear(x).dtype == dtype
    assert ((linear(x).double() - right).abs() <= bound * (1 + right.abs())).all()
    assert torch.equal(linear(x[None, :, None]), linear(x)[None, :, None])


@needs_kernel
@quick
@given(ROWS, INPUTS, OUTPUTS, st.integers(1, 4), DTYPES, st.data())
def test_a_row_has_the_bits_that_it_has_alone(
    rows: int, inputs: int, outputs: int, num_threads: int, dtype: torch.dtype, data: st.DataObject
) -> None:
    x, weight, bias = draw(rows, inputs, outputs, dtype)
    linear = Int8Linear(weight, bias, activation="gelu")
    row, bad = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, rows - 1))
    if bad != row:
        x[bad] = torch.nan  # which stays where it is
    with use_threads(num_threads):
        together = linear(x)
    with use_threads(1):
        assert torch.equal(linear(x[row]), together[row])


@quick
@given(st.integers(1, 20), INPUTS, st.floats(1e-20, 1e20))
def test_rounding_is_off_by_half_a_step_at_most(rows: int, inputs: int, size: float) -> None:
    x, _, _ = draw(rows, inputs, 1)
    x *= size
    (rounded, scales), _ = round_rows(x)
    steps = scales.repeat_interleave(GROUP, dim=1)[:, :inputs]
    assert ((rounded * steps - x).abs() <= 0.5001 * steps).all()
    weight, weight_scales = round_weight(x)
    steps = weight_scales.repeat_interleave(GROUP, dim=1)[:, :inputs]
    assert ((weight * steps - x).abs() <= 0.5001 * steps).all()
    assert int(rounded.abs().max()) == int(weight.abs().max()) == 127


@needs_kernel
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(512, 3072, 768), (64, 768, 5000), (16, 5120, 96)])
def test_it_is_near_the_plain_linear_at_the_sizes_of_real_steps(rows: int, inputs: int, outputs: int) -> None:
    x, weight, bias = draw(rows, inputs, outputs)
    right = nn.functional.linear(x, weight, bias)
    assert float((Int8Linear(weight, bias)(x) - right).norm() / right.norm()) < 0.01


@needs_kernel
def test_a_few_inputs_that_are_many_times_as_large_spoil_little() -> None:
    """With one scale for a whole row the error would be many times as large."""
    x, weight, _ = draw(64, 5120, 256)
    outliers = torch.randperm(5120, generator=torch.Generator().manual_seed(0))[:6]
    x[:, outliers] *= 60
    right = x @ weight.T
    error = float((Int8Linear(weight, None)(x) - right).norm() / right.norm())
    scale = x.abs().amax(dim=1, keepdim=True) / 127
    one_scale = (x / scale).round() * scale @ weight.T
    assert error < 0.03
    # What the other inputs contribute still counts.
    rest = x.clone()
    rest[:, outliers] = 0
    lost = float((Int8Linear(weight, None)(x) - right).norm() / (rest @ weight.T).norm())
    lost_by_one_scale = float((one_scale - right).norm() / (rest @ weight.T).norm())
    assert lost < 0.12 < lost_by_one_scale


@needs_kernel
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_with_a_non_finite_input_is_nan(bad: float, activation: Activation, dtype: torch.dtype) -> None:
    x, weight, bias = draw(20, 300, 40, dtype)
    x[3, 299] = bad
    got = Int8Linear(weight, bias, activation=activation)(x)
    assert got[3].isnan().all()
    assert got[torch.arange(20) != 3].isfinite().all()


@needs_kernel
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_an_output_with_a_non_finite_weight_is_nan(bad: float) -> None:
    x, weight, _ = draw(20, 64, 40)
    weight[5, 7] = bad
    got = Int8Linear(weight, None)(x)
    assert got[:, 5].isnan().all()
    assert got[:, torch.arange(40) != 5].isfinite().all()


@needs_kernel
@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-44, 1e30])
def test_very_small_and_very_large_inputs_give_finite_results(size: float) -> None:
    x, weight, bias = draw(8, 200, 40)
    got = Int8Linear(weight, bias)(x * size)
    assert ((got - (x * size @ weight.T + bias)).abs() <= 0.3 * (size + 1e-6)).all()


@quick
@given(st.integers(1, 40), INPUTS, OUTPUTS, ACTIVATIONS, DTYPES)
def test_without_the_kernel_torch_computes_the_same(
    rows: int, inputs: int, outputs: int, activation: Activation, dtype: torch.dtype
) -> None:
    x, weight, bias = draw(rows, inputs, outputs, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(build.OFF_SWITCH, "off")
        build.load_kernel.cache_clear()
        plain = Int8Linear(weight, bias, activation=activation)
        out = plain(x)
    build.load_kernel.cache_clear()
    right = exact(x, weight, bias, activation)
    bound = 2e-6 if dtype == torch.float32 else 2.0**-8
    assert not plain.has_kernel
    assert ((out.double() - right).abs() <= bound * (1 + right.abs())).all()
    assert not rows_are_independent(nn.Sequential(plain))


@needs_kernel
def test_a_model_of_such_linears_needs_no_padded_steps() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    pack_linears(model, rows=64, to_int8=True)
    assert all(isinstance(module, Int8Linear) for module in model)
    assert rows_are_independent(model)
    check_all_int8(model)


def test_a_model_with_other_matrices_is_refused() -> None:
    with pytest.raises(RequestError, match="--dtype int8 cannot run this model: its layer 1 is a Conv1d"):
        check_all_int8(nn.Sequential(nn.Embedding(8, 8), nn.Conv1d(8, 8, 1)))


@pytest.mark.parametrize("weight", [torch.zeros(8), torch.zeros(8, 0), torch.zeros(8, 8, dtype=torch.int8)])
def test_other_weights_are_refused(weight: Tensor) -> None:
    assert not can_round(weight)
    with pytest.raises(ValueError, match="8 bits"):
        Int8Linear(weight, None)


@needs_kernel
def test_other_inputs_are_refused() -> None:
    linear = Int8Linear(torch.ones(8, 8), None)
    for wrong in (torch.zeros(2, 7), torch.zeros(2, 8, dtype=torch.float16)):
        with pytest.raises(ValueError, match="must be float32 or bfloat16"):
            linear(wrong)
