"""`--dtype auto` chooses bfloat16 only where it is clearly faster."""

from __future__ import annotations

import pytest
import torch

from tirazh.model.layers import dtype_probe
from tirazh.model.layers.dtype_probe import resolve_dtype


@pytest.mark.parametrize(
    ("float32_ms", "bfloat16_ms", "expected"),
    [(10, 4, "bfloat16"), (10, 8.3, "bfloat16"), (10, 8.4, "float32"), (10, 10, "float32"), (10, 50, "float32")],
)
def test_a_cpu_gets_bfloat16_only_if_it_is_faster_by_a_fifth(
    monkeypatch: pytest.MonkeyPatch, float32_ms: float, bfloat16_ms: float, expected: str
) -> None:
    times = {torch.float32: float32_ms, torch.bfloat16: bfloat16_ms}
    monkeypatch.setattr(dtype_probe, "_matmul_seconds", lambda dtype: times[dtype])
    assert resolve_dtype("cpu") == expected


@pytest.mark.parametrize(("has_bfloat16", "expected"), [(True, "bfloat16"), (False, "float16")])
def test_a_gpu_gets_bfloat16_if_it_supports_it(
    monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bfloat16)
    assert resolve_dtype("cuda") == expected


def test_the_dtype_probe_measures_something_and_is_short() -> None:
    threads = torch.get_num_threads()
    assert 0 < dtype_probe._matmul_seconds(torch.float32, repeats=2) < 5
    assert torch.get_num_threads() == threads
    assert resolve_dtype() in ("float32", "bfloat16")
