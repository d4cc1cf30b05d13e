"""Every C kernel that divides its work among threads computes the same bits with any number of them.

The linear layers have such a test each in `tests/model/layers`, where a row is also compared with itself alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.model.attention.test_decode import Case, cases
from tests.model.attention.test_prefill import Step, steps
from tests.model.tiny import use_threads
from tirazh.model.attention.backends import cpu_decode
from tirazh.model.engine.sampling import RowState, choose_compiled
from tirazh.model.kernels import build
from tirazh.model.layers.add_norm import add_norm
from tirazh.model.requests import SamplingParams

pytestmark = pytest.mark.skipif(
    build.load_kernel("add_norm") is None, reason="no C compiler on this machine: torch runs instead"
)
quick = settings(max_examples=30, deadline=None)
THREADS = st.integers(2, 4)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16])


def assert_same_bits(compute: Callable[[], Sequence[Tensor]], num_threads: int) -> None:
    """Compare one thread with several; NaN equals NaN."""
    with use_threads(1):
        alone = compute()
    with use_threads(num_threads):
        together = compute()
    for one, several in zip(alone, together, strict=True):
        assert torch.equal(one.view(torch.uint8), several.view(torch.uint8))


@quick
@given(steps(), THREADS)
def test_prefill_attention(step: Step, num_threads: int) -> None:
    def compute() -> list[Tensor]:
        out, lse, cache = step.compiled()
        return [out.contiguous(), lse.contiguous(), cache.k, cache.v]

    assert_same_bits(compute, num_threads)


@quick
@given(cases(), DTYPES, THREADS)
def test_decode_attention(case: Case, dtype: torch.dtype, num_threads: int) -> None:
    names = ("q_NHD", "k_NKD", "v_NKD", "cache_k", "cache_v")
    case = replace(case, **{name: getattr(case, name).to(dtype) for name in names})
    # A row of no slot is left as it is: it holds whatever its memory held before.
    used = case.rows.slots >= 0

    def compute() -> list[Tensor]:
        out, lse, k, v = case.run(cpu_decode.attend_compiled)
        return [out[used].contiguous(), lse[used].contiguous(), k, v]

    assert_same_bits(compute, num_threads)


@quick
@given(st.integers(1, 40), st.sampled_from([16, 48, 768]), DTYPES, THREADS)
def test_residual_and_layer_norm(rows: int, size: int, dtype: torch.dtype, num_threads: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    hidden, update = (torch.randn(rows, size, generator=generator).to(dtype) for _ in range(2))
    norm = nn.LayerNorm(size, dtype=dtype)
    with torch.inference_mode():
        assert_same_bits(lambda: add_norm(hidden, update, norm), num_threads)


@quick
@given(
    st.integers(1, 20),
    st.sampled_from([1, 15, 512, 3000]),
    st.sampled_from([0, 1, 40]),
    st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    st.sampled_from([0.0, 0.7, 1.0]),
    THREADS,
)
def test_sampling(
    num_rows: int, num_tokens: int, top_k: int, top_p: float, temperature: float, num_threads: int
) -> None:
    logits = torch.randn(num_rows, num_tokens, generator=torch.Generator().manual_seed(num_rows)) * 3
    logits[num_rows // 2] = torch.nan  # this row has no token
    params = SamplingParams(top_k=top_k, top_p=max(top_p, 0.01), temperature=temperature)
    rows = [RowState(params, seed, None, seed) for seed in range(num_rows)]
    assert_same_bits(lambda: choose_compiled(logits.clone(), rows), num_threads)
