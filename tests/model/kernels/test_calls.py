"""A list of prepared calls runs kernels and functions of Python in order, and stops where one fails."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tirazh.model.kernels.build import load_kernel
from tirazh.model.kernels.calls import Call, CallList, PythonCall
from tirazh.model.layers.add_norm import add_norm_call

pytestmark = pytest.mark.skipif(
    load_kernel("run_calls") is None or load_kernel("add_norm") is None, reason="no C compiler on this machine"
)


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(1, 5))
def test_calls_run_in_order_on_the_first_rows(are_kernels: list[bool], num_rows: int) -> None:
    """Half of them add 1 by a kernel, the others double in Python: the order shows in the result."""
    total, one, norm = torch.ones(5, 16), torch.ones(5, 16), nn.LayerNorm(16).requires_grad_(False)
    kernel = add_norm_call(total, one, norm, total, torch.empty(5, 16))
    calls: list[Call] = [
        kernel if each else PythonCall(Tensor.mul_, (total, total.new_tensor([[2]]))) for each in are_kernels
    ]
    for call in calls:
        call.set_num_rows(num_rows)
    CallList(calls).run()
    expected = 1
    for each in are_kernels:
        expected = expected + 1 if each else 2 * expected
    assert (total[:num_rows] == expected).all()
    assert (total[num_rows:] == 1).all()


def test_calls_behind_one_that_fails_do_not_run() -> None:
    seen: list[int] = []

    def fail() -> None:
        raise ValueError("no")

    calls = [PythonCall(lambda: seen.append(1), ()), PythonCall(fail, ()), PythonCall(lambda: seen.append(2), ())]
    with pytest.raises(ValueError, match="no"):
        CallList(calls).run()
    assert seen == [1]
