"""A linear layer by AVX512-BF16 equals the plain one, and a row's bits depend on that row alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.model.layers.linear_examples import draw, expected
from tests.model.tiny import use_threads
from tirazh.model.kernels import build
from tirazh.model.layers.bfloat16_linear import Bfloat16Linear
from tirazh.model.layers.kernel_linear import Activation
from tirazh.model.layers.packed_linear import PackedLinear, can_pack, pack_weight, rows_are_independent
from tirazh.model.layers.tiled_linear import TiledLinear

needs_kernel = pytest.mark.skipif(
    not Bfloat16Linear.can_multiply(torch.zeros(32, 32, dtype=torch.bfloat16)),
    reason="no AVX512-BF16, or no C compiler",
)
ROUNDING = 2**-8  # of bfloat16
quick = settings(max_examples=40, deadline=None)
# Rows that fill blocks and rows that do not; inputs of one part and of several; panels that are not full.
ROWS, INPUTS, OUTPUTS = st.integers(1, 140), st.sampled_from([2, 34, 96, 256, 258, 1030]), st.integers(1, 130)


@needs_kernel
@quick
@given(ROWS, INPUTS, OUTPUTS, st.sampled_from(["none", "gelu"]), st.booleans())
def test_it_equals_the_plain_linear(
    rows: int, inputs: int, outputs: int, activation: Activation, has_bias: bool
) -> None:
    x, weight, bias = draw(rows, inputs, outputs, torch.bfloat16)
    linear = Bfloat16Linear(weight, bias if has_bias else None, activation=activation)
    right = expected(x, weight, bias if has_bias else None, activation)
    assert ((linear(x).double() - right).abs() <= ROUNDING * right.abs() + 1e-5).all()
    assert torch.equal(linear(x[None, :, None]), linear(x)[None, :, None])


@needs_kernel
@quick
@given(ROWS, INPUTS, OUTPUTS, st.integers(1, 4), st.data())
def test_a_row_has_the_bits_that_it_has_alone(
    rows: int, inputs: int, outputs: int, num_threads: int, data: st.DataObject
) -> None:
    x, weight, bias = draw(rows, inputs, outputs, torch.bfloat16)
    linear = Bfloat16Linear(weight, bias, activation="gelu")
    row, bad = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, rows - 1))
    if bad != row:
        x[bad] = torch.nan  # which stays where it is
    with use_threads(num_threads):
        together = linear(x)
    with use_threads(1):
        assert torch.equal(linear(x[row]), together[row])


@needs_kernel
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(512, 3072, 768), (512, 768, 2304), (64, 768, 5000), (16, 2048, 96)]
)
def test_it_is_exact_at_the_sizes_of_real_steps(rows: int, inputs: int, outputs: int) -> None:
    x, weight, bias = draw(rows, inputs, outputs, torch.bfloat16)
    got, right = Bfloat16Linear(weight, bias)(x), expected(x, weight, bias, "none")
    assert ((got.double() - right).abs() <= ROUNDING * right.abs() + 1e-5).all()
    assert torch.equal(Bfloat16Linear(weight, bias)(x[: rows // 2]), got[: rows // 2])


@needs_kernel
@quick
@given(ROWS, INPUTS, OUTPUTS, st.sampled_from(["none", "gelu"]))
def test_results_as_floats_hold_the_same_values(rows: int, inputs: int, outputs: int, activation: Activation) -> None:
    x, weight, bias = draw(rows, inputs, outputs, torch.bfloat16)
    x[0] = torch.inf
    linear = Bfloat16Linear(weight, bias, activation=activation)
    got = linear.in_float32(x)
    assert got.dtype == torch.float32
    assert torch.equal(got.view(torch.int32), linear(x).float().view(torch.int32))


@needs_kernel
def test_the_kernels_gelu_is_rounded_well_for_every_bfloat16() -> None:
    """By a bias of each, over inputs of zero: within 0.51 units in the last place, for values from a thousandth up."""
    every = torch.arange(1 << 16).to(torch.uint16).view(torch.bfloat16)
    every = every[every.isfinite()]
    linear = Bfloat16Linear(torch.zeros(len(every), 32, dtype=torch.bfloat16), every, activation="gelu")
    right = nn.functional.gelu(every.double(), approximate="tanh")
    last_place = 2 ** (right.abs().clamp(min=1e-3).log2().floor() - 7)
    assert ((linear(torch.zeros(1, 32, dtype=torch.bfloat16))[0].double() - right).abs() <= 0.51 * last_place).all()


@needs_kernel
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_non_finite_inputs_give_what_torch_gives(bad: float, activation: Activation) -> None:
    x, weight, bias = draw(20, 64, 40, torch.bfloat16)
    x[3, 5], bias[7] = bad, bad
    got, right = Bfloat16Linear(weight, bias, activation=activation)(x), expected(x, weight, bias, activation)
    assert torch.equal(got.isnan(), right.isnan())
    assert torch.equal(got.isinf(), right.isinf())


@needs_kernel
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 15, 16, 17, 25, 63, 64, 65])
def test_rows_that_do_not_fill_a_block_are_all_computed(rows: int) -> None:
    x, weight, bias = draw(rows, 64, 40, torch.bfloat16)
    right = expected(x, weight, bias, "none")
    for same in (x, x.t().contiguous().t()):  # whatever the strides
        assert ((Bfloat16Linear(weight, bias)(same).double() - right).abs() <= ROUNDING * right.abs() + 1e-5).all()


@needs_kernel
def test_memory_behind_the_last_row_is_not_read() -> None:
    x, weight, bias = draw(40, 64, 40, torch.bfloat16)
    linear = Bfloat16Linear(weight, bias)
    clean = linear(x[:19])
    x[19:] = torch.nan
    assert torch.equal(linear(x[:19]), clean)


@needs_kernel
def test_a_model_of_such_linears_needs_no_padded_steps() -> None:
    linear = Bfloat16Linear(torch.zeros(8, 8, dtype=torch.bfloat16), None)
    assert rows_are_independent(nn.Sequential(linear))
    assert not rows_are_independent(nn.Sequential(linear, nn.SiLU()))
    assert not rows_are_independent(nn.Sequential(linear, nn.Linear(8, 8)))


@needs_kernel
def test_bfloat16_weights_get_it_or_amx_tiles() -> None:
    linear = pack_weight(torch.zeros(32, 32, dtype=torch.bfloat16), None, rows=64)
    assert isinstance(linear, Bfloat16Linear | TiledLinear)


@pytest.mark.parametrize(
    "weight", [torch.zeros(8, 31, dtype=torch.bfloat16), torch.zeros(8, 32), torch.zeros(8, 32, dtype=torch.float16)]
)
def test_other_weights_are_refused(weight: Tensor) -> None:
    assert not Bfloat16Linear.can_multiply(weight)
    with pytest.raises(ValueError, match="kernel linear_bf16"):
        Bfloat16Linear(weight, None)


@needs_kernel
@pytest.mark.parametrize("x", [torch.zeros(2, 32), torch.zeros(2, 30, dtype=torch.bfloat16)])
def test_other_inputs_are_refused(x: Tensor) -> None:
    linear = Bfloat16Linear(torch.zeros(8, 32, dtype=torch.bfloat16), None)
    with pytest.raises(ValueError, match=r"the input must be torch\.bfloat16 \[\.\.\., 32\]"):
        linear(x)


def test_without_the_kernel_onednn_computes_the_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build.OFF_SWITCH, "off")
    build.load_kernel.cache_clear()
    try:
        weight = torch.zeros(32, 32, dtype=torch.bfloat16)
        assert not can_pack(weight) or isinstance(pack_weight(weight, None, rows=64), PackedLinear)
        assert not Bfloat16Linear.can_multiply(weight)
    finally:
        build.load_kernel.cache_clear()
