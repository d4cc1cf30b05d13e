"""Runs every C kernel on tensors that end, or begin, at a page that cannot be read: an access outside them ends the
process. `python -m tests.model.kernels.guarded_memory` prints each case before it runs it."""

from __future__ import annotations

import ctypes
import itertools
import mmap
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tirazh.model.attention.backends import cpu_decode, cpu_prefill
from tirazh.model.attention.kv_cache import LayerCache, PrefixKV
from tirazh.model.attention.layer_shape import LayerShape
from tirazh.model.attention.prefill_chunks import PrefillChunk, PrefillChunks
from tirazh.model.attention.step_layout import DecodeRows
from tirazh.model.engine.sampling import RowState, choose_compiled
from tirazh.model.kernels.build import ELEMENT_TYPES
from tirazh.model.layers.add_norm import add_norm
from tirazh.model.layers.packed_linear import own_kernel
from tirazh.model.requests import SamplingParams

PAGE = mmap.PAGESIZE
PREFILL_DIMS = (16, 32, 48, 64, 80, 96, 112, 128)
DECODE_DIMS = (1, 7, 16, 24, 48, 64, 80, 96, 128)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_mapped: list[mmap.mmap] = []


class Guarded:
    """Copies tensors to memory between two pages that cannot be accessed, against the first or the last."""

    def __init__(self, *, at_end: bool) -> None:
        self.at_end = at_end

    def __call__(self, x: Tensor) -> Tensor:
        num_bytes = max(1, x.numel() * x.element_size())
        inner = -(-num_bytes // PAGE) * PAGE
        pages = mmap.mmap(-1, inner + 2 * PAGE)
        _mapped.append(pages)
        memory = torch.frombuffer(pages, dtype=torch.uint8)
        for page in (0, PAGE + inner):
            if _libc.mprotect(memory.data_ptr() + page, PAGE, 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        start = PAGE + (inner - num_bytes if self.at_end else 0)
        copy = memory[start : start + x.numel() * x.element_size()].view(x.dtype).view(x.shape)
        return copy.copy_(x)


def heads_of(place: Guarded, rows: int, heads: int, dim: int, dtype: torch.dtype, *, is_transposed: bool) -> Tensor:
    """Random [rows, heads, dim], or the transposed view of [heads, rows, dim]."""
    if is_transposed:
        return place(torch.randn(heads, rows, dim).to(dtype)).transpose(0, 1)
    return place(torch.randn(rows, heads, dim).to(dtype))


def prefill(place: Guarded, dim: int, dtype: torch.dtype, *, is_transposed: bool) -> None:
    """A chunk behind a prefix and cached keys, and a label tree that fills the slot to its last key."""
    kept, length, num_prefix, tree = 5, 37, 3, 9
    rows = length + tree
    q = heads_of(place, rows, 4, dim, dtype, is_transposed=is_transposed)
    k, v = (heads_of(place, rows, 2, dim, dtype, is_transposed=is_transposed) for _ in range(2))
    cache = LayerCache(LayerShape(2, dim), 1, 16, dtype=dtype, device=torch.device("cpu"))
    cache.k, cache.v = (place(torch.randn(1, 2, kept + length, dim).to(dtype)) for _ in range(2))
    prefix = PrefixKV(*(place(torch.randn(2, num_prefix, dim).to(dtype)) for _ in range(2)))
    visible = torch.ones(4, tree, kept + length + tree, dtype=torch.bool)
    chunks = PrefillChunks(
        [
            PrefillChunk(0, 0, length, kept, num_prefix),
            PrefillChunk(0, length, tree, kept + length, num_prefix, visible=visible),
        ]
    )
    chunks.table.rows, chunks.table.masks = place(chunks.table.rows), place(chunks.table.masks)
    out, _ = cpu_prefill.attend_compiled(q, k, v, cache, chunks, 0.1, prefix)
    assert out.isfinite().all()


def decode(place: Guarded, dim: int, dtype: torch.dtype, *, is_transposed: bool) -> None:
    """Rows at the first and at the last key of a slot."""
    ends = [0, 40, 16]
    q = heads_of(place, 3, 4, dim, dtype, is_transposed=is_transposed)
    k, v = (heads_of(place, 3, 2, dim, dtype, is_transposed=is_transposed) for _ in range(2))
    cache_k, cache_v = (place(torch.randn(3, 2, 41, dim).to(dtype)) for _ in range(2))
    rows = DecodeRows(place(torch.tensor([1, 2, 0])), place(torch.tensor(ends)), max(ends) + 1)
    out, _ = cpu_decode.attend_compiled(q, k, v, cache_k, cache_v, rows, 0.1)
    assert out.isfinite().all()


def residual(place: Guarded, size: int, dtype: torch.dtype) -> None:
    norm = nn.LayerNorm(size, dtype=dtype)
    norm.weight.data, norm.bias.data = place(norm.weight.data), place(norm.bias.data)
    add_norm(place(torch.randn(3, size).to(dtype)), place(torch.randn(3, size).to(dtype)), norm)


def linear(place: Guarded, rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> None:
    """By the kernel that takes such a weight on this machine, if one does."""
    weight, bias = place(torch.randn(outputs, inputs).to(dtype)), place(torch.randn(outputs).to(dtype))
    kind = own_kernel(weight)
    if kind is not None:
        layer = kind(weight, bias, activation="gelu")
        layer.weight, layer.bias = place(layer.weight), bias
        assert layer(place(torch.randn(rows, inputs).to(dtype))).isfinite().all()


def sampling(place: Guarded, num_tokens: int, params: SamplingParams) -> None:
    rows = [RowState(params, seed, None, 0) for seed in range(3)]
    tokens, log_sums, _ = choose_compiled(place(torch.randn(3, num_tokens)), rows)
    assert ((tokens >= 0) & (tokens < num_tokens)).all()
    assert log_sums.isfinite().all()


def cases() -> Iterator[str]:
    """Run all cases, each after its name."""
    for at_end, dtype in itertools.product((True, False), ELEMENT_TYPES):
        place, name = Guarded(at_end=at_end), f"{dtype}, {'end' if at_end else 'beginning'} of the memory"
        for is_transposed in (False, True):
            for dim in PREFILL_DIMS:
                yield f"prefill attention, head dim {dim}, {name}"
                prefill(place, dim, dtype, is_transposed=is_transposed)
            for dim in DECODE_DIMS:
                yield f"decode attention, head dim {dim}, {name}"
                decode(place, dim, dtype, is_transposed=is_transposed)
        for size in (16, 48, 256):
            yield f"residual and LayerNorm of {size}, {name}"
            residual(place, size, dtype)
        for rows, inputs, outputs in ((1, 1, 1), (1, 2, 1), (5, 300, 25), (66, 17, 48), (19, 96, 33)):
            yield f"linear of {rows} rows, {inputs} to {outputs}, {name}"
            linear(place, rows, inputs, outputs, dtype)
        for num_tokens in (1, 15, 16, 17, 1000):
            for top_k, top_p in ((0, 1.0), (3, 1.0), (0, 0.9), (5, 0.5)):
                yield f"sampling from {num_tokens} tokens, top_k {top_k}, top_p {top_p}, {name}"
                sampling(place, num_tokens, SamplingParams(top_k=top_k, top_p=top_p))


def main() -> None:
    torch.manual_seed(0)
    with torch.inference_mode():
        for name in cases():
            print(name, flush=True)
    print("all cases", flush=True)


if __name__ == "__main__":
    main()
