"""Attention by torch's operations, where no kernel of ours takes the heads."""

from __future__ import annotations

import pytest
import torch

from tirazh.model.attention.backends import plain
from tirazh.model.attention.full_sequence import window_attention
from tirazh.model.attention.kv_cache import LayerCache, PrefixKV
from tirazh.model.attention.layer_shape import LayerShape
from tirazh.model.attention.masked import attention_with_lse
from tirazh.model.attention.prefill_chunks import PrefillChunk, PrefillChunks
from tirazh.model.attention.step_layout import DecodeRows
from tirazh.model.config import SparsePattern

DIM, SCALE = 128, 128**-0.5
PATTERN = SparsePattern(block_size=4, num_local_blocks=2, num_global_blocks=1, num_different_global_patterns=1)


def large(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Components near 24: the product of two vectors is 73,728, more than float16 holds; scaled it is 6,517."""
    generator = torch.Generator().manual_seed(len(shape))
    return (24 + torch.randn(shape, generator=generator) / 64).to(torch.float16).to(dtype)


def run(name: str, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    q, k, v = (large(3, 2, DIM, dtype=dtype) for _ in range(3))
    if name == "attention with log-sum-exp":
        return attention_with_lse(q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), SCALE, None)
    if name == "prefix":
        return plain.attend_prefix(q, PrefixKV(large(2, 5, DIM, dtype=dtype), large(2, 5, DIM, dtype=dtype)), SCALE)
    if name == "chunks":
        cache = LayerCache(LayerShape(2, DIM), 1, 16, dtype=dtype, device=torch.device("cpu"))
        return plain.attend_chunks(q, k, v, cache, PrefillChunks([PrefillChunk(0, 0, 3, 0)]), SCALE)
    if name == "windows":
        x = [large(1, 2, 20, DIM, dtype=dtype) for _ in range(3)]
        return (window_attention(x[0], x[1], x[2], PATTERN, (0, 4), SCALE),)
    attend = {"together": plain.attend_together, "one by one": plain.attend_one_by_one}[name]
    caches = [large(4, 2, 32, DIM, dtype=dtype) for _ in range(2)]
    return attend(q, k, v, *caches, DecodeRows(torch.tensor([0, -1, 3]), torch.tensor([9, 0, 20]), 21), SCALE)


@pytest.mark.parametrize(
    "name", ["attention with log-sum-exp", "prefix", "chunks", "windows", "together", "one by one"]
)
def test_scores_too_large_for_float16_are_computed(name: str) -> None:
    for narrow, wide in zip(run(name, torch.float16), run(name, torch.float32), strict=True):
        assert torch.allclose(narrow.float(), wide, atol=0.03, rtol=1e-3)
