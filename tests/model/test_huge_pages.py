"""Tensors in huge pages are ordinary tensors that begin at a cache line, and their memory is given back."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tirazh.model.huge_pages import HUGE_PAGE, empty_in_huge_pages

DTYPES = (torch.float32, torch.bfloat16, torch.int8, torch.int32)
SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def kilobytes(name: str) -> int:
    """A line of this process' memory map, summed up."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:"))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.lists(st.integers(0, 300), max_size=3), st.sampled_from(DTYPES)), max_size=12))
def test_tensors_are_separate_and_begin_at_a_cache_line(wanted: list[tuple[list[int], torch.dtype]]) -> None:
    tensors = [empty_in_huge_pages(shape, dtype) for shape, dtype in wanted]
    for index, tensor in enumerate(tensors):
        tensor.fill_(index)
    for index, (tensor, (shape, dtype)) in enumerate(zip(tensors, wanted, strict=True)):
        assert (list(tensor.shape), tensor.dtype, tensor.is_contiguous()) == (shape, dtype, True)
        assert not tensor.numel() or tensor.data_ptr() % 64 == 0
        assert bool((tensor == index).all())


@pytest.mark.skipif(not SWITCH.exists() or "[never]" in SWITCH.read_text(), reason="huge pages are switched off here")
def test_a_large_tensor_lies_in_huge_pages_and_gives_them_back() -> None:
    before = kilobytes("AnonHugePages")
    tensor = empty_in_huge_pages((40 * HUGE_PAGE,), torch.int8).fill_(1)
    taken = kilobytes("AnonHugePages") - before
    if not taken:
        pytest.skip("the system has no huge page left")
    del tensor
    gc.collect()
    assert kilobytes("AnonHugePages") - before <= taken / 4


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="no such file on this system")
def test_the_last_of_some_small_tensors_gives_their_memory_back() -> None:
    before = kilobytes("Rss")
    tensors = [empty_in_huge_pages((1 << 20,), torch.int8).fill_(1) for _ in range(200)]
    assert kilobytes("Rss") - before > 150 * 1024
    tensors.clear()
    gc.collect()
    assert kilobytes("Rss") - before < 80 * 1024
