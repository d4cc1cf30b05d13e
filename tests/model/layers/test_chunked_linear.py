"""A linear layer in chunks gives the same bits on any number of ranks, and nearly those of the plain one. A slice of
the outputs of any layer has the bits that it has among all of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.model.layers import linear_examples
from tests.model.tiny import use_threads
from tirazh.errors import RequestError
from tirazh.model.kernels.build import load_kernel
from tirazh.model.layers.chunked_linear import ChunkedLinear, add_in_tree, check_own_kernels
from tirazh.model.layers.int8_linear import Int8Linear
from tirazh.model.layers.kernel_linear import Activation
from tirazh.model.layers.packed_linear import own_kernel, pack_linears, pack_weight
from tirazh.model.layers.prepared_linear import Workspace

quick = settings(max_examples=40, deadline=None)
ROWS, OUTPUTS = st.integers(1, 70), st.integers(1, 130)
CHUNK_INPUTS = st.sampled_from([16, 32, 48, 128, 192, 320])  # of 8-bit layers: below, at and above a group of 128
# How a rank multiplies: in float32, in bfloat16, and in 8 bits with activations of both dtypes.
KINDS = {
    "float32": (torch.float32, False),
    "bfloat16": (torch.bfloat16, False),
    "int8": (torch.bfloat16, True),
    "int8 of float32": (torch.float32, True),
}


def has_own_kernel(kind: str) -> bool:
    dtype, is_int8 = KINDS[kind]
    if is_int8:
        return load_kernel("linear_int8") is not None
    return own_kernel(torch.empty(16, 64, dtype=dtype)) is not None


kinds = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.skipif(not has_own_kernel(kind), reason="no kernel of ours here"))
        for kind in KINDS
    ],
)


def draw(kind: str, rows: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    return linear_examples.draw(rows, inputs, outputs, KINDS[kind][0])


def packed(kind: str, weight: Tensor, bias: Tensor | None, activation: Activation = "none") -> nn.Module:
    if KINDS[kind][1]:
        return Int8Linear(weight, bias, activation=activation)
    return pack_weight(weight, bias, rows=64, activation=activation)


def chunked(kind: str, weight: Tensor, bias: Tensor, **ranks: object) -> ChunkedLinear:
    linear = ChunkedLinear(weight, bias, **ranks)  # type: ignore[arg-type]
    pack_linears(linear, rows=64, to_int8=KINDS[kind][1])
    return linear


def outputs_of_ranks(kind: str, x: Tensor, weight: Tensor, bias: Tensor, ranks: int) -> list[Tensor]:
    """What every rank returns. Ranks are run one after the other: first for their sums, then for their outputs."""
    sums: list[Tensor] = []

    def keep(own: Tensor) -> Tensor:
        sums.append(own.clone())
        return own[None]

    shares = list(zip(x.chunk(ranks, dim=1), weight.chunk(ranks, dim=1), strict=True))
    for own_x, own_weight in shares:
        chunked(kind, own_weight, bias, ranks=ranks, gather=keep)(own_x)
    return [chunked(kind, w, bias, ranks=ranks, gather=lambda own: torch.stack(sums))(own_x) for own_x, w in shares]


@kinds
@quick
@given(ROWS, CHUNK_INPUTS, OUTPUTS, st.integers(1, 4))
def test_one_two_and_four_ranks_have_the_same_bits(
    kind: str, rows: int, chunk_inputs: int, outputs: int, num_threads: int
) -> None:
    x, weight, bias = draw(kind, rows, 4 * chunk_inputs, outputs)
    with use_threads(num_threads):
        alone = chunked(kind, weight, bias)(x)
    with use_threads(1):
        for ranks in (2, 4):
            assert all(torch.equal(each, alone) for each in outputs_of_ranks(kind, x, weight, bias, ranks))


@kinds
@quick
@given(ROWS, CHUNK_INPUTS, OUTPUTS, st.booleans(), st.data())
def test_prepared_calls_give_the_bits_of_the_module(
    kind: str, rows: int, chunk_inputs: int, outputs: int, has_bias: bool, data: st.DataObject
) -> None:
    """Also of fewer rows than there is memory for, and with several ranks."""
    ranks = data.draw(st.sampled_from([1, 2, 4]))
    x, weight, bias = draw(kind, rows, 4 // ranks * chunk_inputs, outputs)

    def gather(own: Tensor) -> Tensor:
        return torch.stack([own * (rank + 1) for rank in range(ranks)])

    linear = ChunkedLinear(weight, bias if has_bias else None, ranks=ranks, gather=gather if ranks > 1 else None)
    pack_linears(linear, rows=64, to_int8=KINDS[kind][1])
    assert linear.has_calls(x.dtype)
    out = x.new_zeros(rows, outputs)
    calls = linear.prepare(x, out, Workspace(rows))
    for few in (rows, data.draw(st.integers(1, rows))):
        out.zero_()
        for call in calls:
            call.set_num_rows(few)
            call.run()
        assert torch.equal(out[:few], linear(x[:few]))
        assert not out[few:].any()


@kinds
@quick
@given(ROWS, CHUNK_INPUTS, OUTPUTS)
def test_it_is_the_plain_linear_within_rounding(kind: str, rows: int, chunk_inputs: int, outputs: int) -> None:
    x, weight, bias = draw(kind, rows, 4 * chunk_inputs, outputs)
    right = x.double() @ weight.double().T + bias.double()
    got = chunked(kind, weight, bias)(x)
    # Of bfloat16: each of the four parts, none of which is much larger than 1, and the result are rounded.
    bound = {"float32": 1e-5, "bfloat16": 2.0**-6}.get(kind, 0.06)
    assert got.dtype == x.dtype
    assert got.shape == (rows, outputs)
    assert ((got.double() - right).abs() <= bound * (1 + right.abs())).all()
    assert torch.equal(chunked(kind, weight, bias)(x[None, :, None]), got[None, :, None])


@kinds
def test_its_error_is_little_above_that_of_the_plain_linear(kind: str) -> None:
    x, weight, bias = draw(kind, 64, 3072, 768)
    right = x.double() @ weight.double().T + bias.double()
    plain, cut = (
        (each(x).double() - right).norm() for each in (packed(kind, weight, bias), chunked(kind, weight, bias))
    )
    assert cut < 1.5 * plain


@kinds
@quick
@given(ROWS, CHUNK_INPUTS, OUTPUTS, st.data())
def test_a_row_has_the_bits_that_it_has_alone(
    kind: str, rows: int, chunk_inputs: int, outputs: int, data: st.DataObject
) -> None:
    x, weight, bias = draw(kind, rows, 4 * chunk_inputs, outputs)
    linear = chunked(kind, weight, bias)
    row = data.draw(st.integers(0, rows - 1))
    assert torch.equal(linear(x[row]), linear(x)[row])


@kinds
@quick
@given(ROWS, CHUNK_INPUTS, OUTPUTS, st.booleans(), st.data())
def test_a_slice_of_the_outputs_has_the_bits_that_it_has_among_all(
    kind: str, rows: int, inputs: int, outputs: int, is_gelu: bool, data: st.DataObject
) -> None:
    """So a column-parallel layer, of which every rank computes some outputs, needs nothing."""
    x, weight, bias = draw(kind, rows, inputs, outputs)
    first = data.draw(st.integers(0, outputs - 1))
    some = slice(first, data.draw(st.integers(first + 1, outputs)))
    activation: Activation = "gelu" if is_gelu else "none"
    whole = packed(kind, weight, bias, activation)(x)
    assert torch.equal(packed(kind, weight[some], bias[some], activation)(x), whole[:, some])


def test_the_tree_adds_neighbours_first_and_in_float32() -> None:
    def parts() -> Tensor:
        return torch.tensor([[1.0], [2.0**24], [1.0], [-(2.0**24)]])

    assert add_in_tree(parts()).tolist() == [1.0]  # one after the other: 0
    halves = torch.stack([add_in_tree(parts()[:2]), add_in_tree(parts()[2:])])
    assert torch.equal(add_in_tree(halves), add_in_tree(parts()))
    narrow = torch.tensor([[1.0], [2.0**-20]], dtype=torch.bfloat16)
    assert add_in_tree(narrow).tolist() == [1 + 2.0**-20]
    assert add_in_tree(narrow[:1]).dtype == torch.float32


def test_a_model_of_which_a_library_computes_a_part_is_refused() -> None:
    with pytest.raises(
        RequestError, match=r"has no kernels for --dtype bfloat16, .* give --dtype float32 or int8 on a"
    ):
        check_own_kernels(nn.Sequential(nn.Linear(8, 8)), "bfloat16")
