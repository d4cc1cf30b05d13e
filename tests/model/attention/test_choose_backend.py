"""Which attention backend a model gets on this machine."""

from __future__ import annotations

import pytest
import torch

from tests.model.tiny import tiny_config
from tirazh.model.attention.backends.choose import build_attention, choose_backend
from tirazh.model.attention.backends.cpu import CpuBackend
from tirazh.model.attention.backends.interface import CapturableBackend, HeadType
from tirazh.model.attention.backends.plain import PlainBackend
from tirazh.model.attention.block_layout import global_starts
from tirazh.model.attention.kv_cache import KVCache
from tirazh.model.attention.layer_shape import LayerKind, LayerShape
from tirazh.model.attention.step_layout import append_step
from tirazh.model.engine.sequences import StepBuilder
from tirazh.model.kernels import build
from tirazh.model.step import FreshSlot, Phase

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(
    build.load_kernel("prefill_attention") is None, reason="no C compiler on this machine: torch runs instead"
)


@pytest.fixture(autouse=True)
def without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@needs_compiler
@pytest.mark.parametrize(
    ("dtype", "head_dim", "phase", "expected"),
    [
        (torch.float32, 64, "decode", CpuBackend),
        (torch.bfloat16, 64, "prefill", CpuBackend),
        (torch.float32, 20, "decode", CpuBackend),
        (torch.float32, 20, "prefill", PlainBackend),
        (torch.float16, 64, "decode", PlainBackend),
        (torch.float16, 64, "prefill", PlainBackend),
    ],
)
def test_a_cpu_gets_the_c_kernels_for_the_heads_that_they_take(
    dtype: torch.dtype, head_dim: int, phase: Phase, expected: type
) -> None:
    backend = choose_backend([HeadType(dtype, CPU, head_dim)], phase)
    assert isinstance(backend, expected)
    assert not isinstance(backend, CapturableBackend)


@needs_compiler
def test_a_model_gets_a_backend_that_takes_all_its_types_of_heads() -> None:
    heads = [HeadType(torch.float32, CPU, head_dim) for head_dim in (64, 20)]
    assert isinstance(choose_backend(heads[:1], "prefill"), CpuBackend)
    assert isinstance(choose_backend(heads, "prefill"), PlainBackend)


def test_appending_a_step_counts_its_tokens_once_and_building_attention_counts_nothing() -> None:
    config = tiny_config()
    sparse = LayerShape(8, 16, config.sparse_pattern, tuple(global_starts(config)))
    cache = KVCache([sparse, LayerShape(8, 16)], num_slots=2, max_length=60, dtype=torch.float32, device=CPU)
    builder = StepBuilder("prefill", 24)
    builder.add(1, [0] * 16, 0)
    builder.add(1, [0] * 5, 16)
    layout = append_step(builder.build((FreshSlot(1, uses_prefix=False),)), cache)
    assert cache.lengths == [0, 21]
    first, second = layout.contexts
    assert (first.num_cached(LayerKind.DENSE), first.closes_window) == (0, False)
    # The second chunk finds the first one's window full and closes it.
    assert (second.num_cached(LayerKind.DENSE), second.closes_window) == (16, True)
    assert second.num_cached(LayerKind.SPARSE) == config.sparse_pattern.global_size
    build_attention(layout, cache)
    assert cache.lengths == [0, 21]
