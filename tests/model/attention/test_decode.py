"""Every implementation of a decode step gives what dense attention gives, and each row the bits that it has alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.model.tiny import use_threads
from tirazh.model.attention.backends import cpu_decode, plain
from tirazh.model.attention.backends.choose import choose_backend
from tirazh.model.attention.backends.interface import HeadType
from tirazh.model.attention.backends.plain import PlainBackend
from tirazh.model.attention.step_layout import DecodeRows
from tirazh.model.kernels import build

needs_compiler = pytest.mark.skipif(
    build.load_kernel("decode_attention") is None, reason="no C compiler on this machine: torch runs instead"
)


def attend_compiled(
    q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, cache_k: Tensor, cache_v: Tensor, rows: DecodeRows, scale: float
) -> tuple[Tensor, Tensor]:
    results = q_NHD.new_empty(q_NHD.shape), torch.empty(q_NHD.shape[:2])
    cpu_decode.attend_call(q_NHD, k_NKD, v_NKD, cache_k, cache_v, rows, scale, *results).run()
    return results


IMPLEMENTATIONS = [
    pytest.param(attend_compiled, id="compiled", marks=needs_compiler),
    pytest.param(plain.attend_one_by_one, id="one by one"),
    pytest.param(plain.attend_together, id="together"),
]
Implementation = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Case:
    """Rows of a decode step over a cache of random values: NaN where no row may read."""

    q_NHD: Tensor
    k_NKD: Tensor
    v_NKD: Tensor
    cache_k: Tensor
    cache_v: Tensor
    rows: DecodeRows

    def run(self, implementation: Implementation, scale: float = 0.3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        k, v = self.cache_k.clone(), self.cache_v.clone()
        out, lse = implementation(self.q_NHD, self.k_NKD, self.v_NKD, k, v, self.rows, scale)
        return out, lse, k, v

    def expected(self, row: int, scale: float = 0.3) -> tuple[Tensor, Tensor]:
        """float64 [H, D] and [H] of one row."""
        slot, end = int(self.rows.slots[row]), int(self.rows.ends[row])
        groups = self.q_NHD.shape[1] // self.k_NKD.shape[1]
        k, v = (
            torch.cat([cache[slot, :, :end], new[row, :, None]], dim=1).double().repeat_interleave(groups, 0)
            for cache, new in ((self.cache_k, self.k_NKD), (self.cache_v, self.v_NKD))
        )
        scores = (k @ self.q_NHD[row].double()[:, :, None])[:, :, 0] * scale
        return (scores.softmax(-1)[:, None] @ v)[:, 0], scores.logsumexp(-1)


def make_case(
    slots: list[int],
    ends: list[int],
    *,
    dim: int = 16,
    heads: int = 4,
    kv_heads: int = 4,
    capacity: int = 40,
    dtype: torch.dtype = torch.float32,
) -> Case:
    generator = torch.Generator().manual_seed(0)
    num_rows = len(slots)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    caches = [draw(6, kv_heads, capacity, dim) for _ in range(2)]
    # As a model hands them over: all heads of a row side by side in one tensor, seen through a transpose.
    q, k, v = (draw(1, n, num_rows, dim)[0].transpose(0, 1) for n in (heads, kv_heads, kv_heads))
    rows = DecodeRows(torch.tensor(slots), torch.tensor(ends), max(ends) + 1)
    return Case(q, k, v, caches[0], caches[1], rows)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    slots = draw(st.permutations([0, 1, 2, 3, 4, 5, -1, -1]))[: draw(st.integers(1, 8))]
    if all(slot < 0 for slot in slots):
        slots[0] = 3
    capacity = draw(st.integers(1, 70))
    ends = [draw(st.integers(0, capacity - 1)) if slot >= 0 else 0 for slot in slots]
    kv_heads = draw(st.integers(1, 3))
    return make_case(
        slots,
        ends,
        dim=draw(st.sampled_from([1, 4, 15, 16, 17, 32, 64, 128, 160])),
        heads=kv_heads * draw(st.integers(1, 2)),
        kv_heads=kv_heads,
        capacity=capacity,
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=40)
@given(case=cases())
def test_a_decoded_row_attends_to_its_slots_own_keys(implementation: Implementation, case: Case) -> None:
    out, lse, k, v = case.run(implementation)
    before_k, before_v = case.cache_k.clone(), case.cache_v.clone()
    for row, (slot, end) in enumerate(zip(case.rows.slots.tolist(), case.rows.ends.tolist(), strict=True)):
        if slot < 0:
            assert not out[row].any()
            assert (lse[row] == -torch.inf).all()
            continue
        expected, expected_lse = case.expected(row)
        assert (out[row] - expected).abs().max() < 1e-5
        assert (lse[row] - expected_lse).abs().max() < 1e-5
        before_k[slot, :, end], before_v[slot, :, end] = case.k_NKD[row], case.v_NKD[row]
    assert torch.equal(k, before_k)  # the new keys were put in, and nothing else touched
    assert torch.equal(v, before_v)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dim", [12, 64, 128])
def test_bfloat16_decode_accumulates_in_float32(implementation: Implementation, dim: int) -> None:
    case = make_case([2, -1, 0, 5], [3, 0, 200, 99], dim=dim, capacity=256, dtype=torch.bfloat16)
    out, lse, _, _ = case.run(implementation, scale=dim**-0.5)
    for row in (0, 2, 3):
        expected, expected_lse = case.expected(row, scale=dim**-0.5)
        assert (out[row].double() - expected).abs().max() < 0.02
        assert (lse[row] - expected_lse).abs().max() < 0.02


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS[:2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_decoded_row_has_the_bits_that_it_has_alone(
    implementation: Implementation, dtype: torch.dtype, threads: int
) -> None:
    slots, ends = [4, 1, 0, 5, 2], [7, 63, 64, 130, 0]
    together = make_case(slots, ends, dim=32, capacity=140, dtype=dtype)
    with use_threads(threads):
        out, lse, _, _ = together.run(implementation)
    for row in range(len(slots)):
        own = DecodeRows(together.rows.slots[row : row + 1], together.rows.ends[row : row + 1], ends[row] + 1)
        q, k, v = (x[row : row + 1] for x in (together.q_NHD, together.k_NKD, together.v_NKD))
        alone = Case(q, k, v, together.cache_k, together.cache_v, own)
        with use_threads(threads):
            out_alone, lse_alone, _, _ = alone.run(implementation)
        assert torch.equal(out_alone[0], out[row])
        assert torch.equal(lse_alone[0], lse[row])


@needs_compiler
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_non_finite_key_affects_its_own_row_alone(value: float) -> None:
    case = make_case([0, 1], [20, 20])
    case.cache_k[0, :, 3] = value
    out, lse, _, _ = case.run(attend_compiled)
    assert out[0].isnan().all() or lse[0].isnan().any()
    assert out[1].isfinite().all()
    assert (out[1] - case.expected(1)[0]).abs().max() < 1e-5


@needs_compiler
@pytest.mark.parametrize("spread", [1e-3, 1.0, 50.0, 1e4])
def test_softmax_is_exact_for_scores_close_together_and_far_apart(spread: float) -> None:
    case = make_case([0], [30], dim=64)
    out, lse, _, _ = case.run(attend_compiled, scale=spread)
    expected, expected_lse = case.expected(0, scale=spread)
    assert (out[0] - expected).abs().max() < 1e-4
    assert ((lse[0] - expected_lse) / expected_lse.abs().clamp(min=1)).abs().max() < 1e-5


def test_without_a_compiler_the_plain_backend_is_chosen_and_one_warning_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", str(tmp_path / "no-such-compiler"))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    build.load_kernel.cache_clear()
    try:
        heads = HeadType(torch.float32, torch.device("cpu"), 16)
        for _ in range(2):
            assert isinstance(choose_backend([heads], "decode"), PlainBackend)
        (record,) = caplog.records
        assert "slower" in record.message
    finally:
        build.load_kernel.cache_clear()
