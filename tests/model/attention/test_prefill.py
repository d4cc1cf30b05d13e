"""Both implementations of a prefill step give what dense attention gives, and each row the bits that it has alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.model.tiny import use_threads
from tirazh.model.attention.backends import cpu_prefill, plain
from tirazh.model.attention.kv_cache import LayerCache, PrefixKV
from tirazh.model.attention.layer_shape import LayerShape
from tirazh.model.attention.prefill_chunks import PrefillChunk, PrefillChunks
from tirazh.model.config import SparsePattern
from tirazh.model.kernels import build

pytestmark = pytest.mark.skipif(
    build.load_kernel("prefill_attention") is None, reason="no C compiler on this machine: torch runs instead"
)
SCALE, CAPACITY = 0.3, 320
PATTERN = SparsePattern(block_size=16, num_local_blocks=2, num_global_blocks=1, num_different_global_patterns=1)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
# Every variant of the matmul takes other widths: tiles for bfloat16 take multiples of 32.
DIMS = (16, 32, 64, 80, 96)
quick = settings(max_examples=40, deadline=None)


@dataclass
class Step:
    """Chunks of up to four slots, one behind the other, over a cache and a prefix of random values."""

    chunks: list[PrefillChunk]
    heads: int = 4
    kv_heads: int = 4
    dim: int = 16
    num_prefix: int = 0
    dtype: torch.dtype = torch.float32
    is_sparse: bool = False
    seed: int = 0
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(self.dtype)

        self.rows = max(chunk.row + chunk.length for chunk in self.chunks) + 2
        # As a model hands them over: heads side by side in one tensor, seen through a transpose.
        self.q, self.k, self.v = (
            draw(1, n, self.rows, self.dim)[0].transpose(0, 1) for n in (self.heads, self.kv_heads, self.kv_heads)
        )
        self.stored = draw(2, 4, self.kv_heads, CAPACITY, self.dim)
        self.prefix = PrefixKV(*(draw(self.kv_heads, self.num_prefix, self.dim) for _ in range(2)))

    def cache(self) -> LayerCache:
        starts = tuple(16 * (head % 2) for head in range(self.kv_heads))
        shape = LayerShape(self.kv_heads, self.dim)
        if self.is_sparse:
            shape = LayerShape(self.kv_heads, self.dim, PATTERN, starts)
        cache = LayerCache(shape, 4, CAPACITY, dtype=self.dtype, device=torch.device("cpu"))
        cache.k, cache.v = self.stored[0].clone(), self.stored[1].clone()
        return cache

    def compiled(self, chunks: list[PrefillChunk] | None = None) -> tuple[Tensor, Tensor, LayerCache]:
        cache, prefix = self.cache(), self.prefix if self.num_prefix else None
        chosen = PrefillChunks(self.chunks if chunks is None else chunks)
        return *cpu_prefill.attend_compiled(self.q, self.k, self.v, cache, chosen, SCALE, prefix), cache

    def expected(self) -> tuple[Tensor, Tensor, LayerCache]:
        """In float64, chunk after chunk, with the whole softmax in one."""
        cache, groups = self.cache(), self.heads // self.kv_heads
        out = torch.zeros(self.rows, self.heads, self.dim, dtype=torch.float64)
        lse = torch.full((self.rows, self.heads), -torch.inf, dtype=torch.float64)
        for chunk in self.chunks:
            if chunk.close_at is not None:
                cache.close_window(chunk.slot, chunk.close_at)
            rows = slice(chunk.row, chunk.row + chunk.length)
            k, v = (
                torch.cat([p[:, : chunk.num_prefix], x[chunk.slot, :, : chunk.num_kept], own[rows].transpose(0, 1)], 1)
                for p, x, own in zip(self.prefix, (cache.k, cache.v), (self.k, self.v), strict=True)
            )
            visible = chunk.visible
            if visible is None:
                end = chunk.num_kept + chunk.length
                visible = torch.ones(1, chunk.length, end, dtype=torch.bool).tril(chunk.num_kept)
                cache.k[chunk.slot, :, chunk.num_kept : end] = self.k[rows].transpose(0, 1)
                cache.v[chunk.slot, :, chunk.num_kept : end] = self.v[rows].transpose(0, 1)
            before = torch.ones(len(visible), chunk.length, chunk.num_prefix, dtype=torch.bool)
            k, v = (x.double().repeat_interleave(groups, 0) for x in (k, v))
            scores = self.q[rows].transpose(0, 1).double() @ k.transpose(1, 2) * SCALE
            scores = scores.masked_fill(~torch.cat([before, visible], 2), -torch.inf)
            out[rows] = (scores.softmax(-1) @ v).transpose(0, 1)
            lse[rows] = scores.logsumexp(-1).transpose(0, 1)
        return out, lse, cache


@st.composite
def steps(draw: st.DrawFn, *, trees: bool = True) -> Step:
    """Prompts of some slots in one or two chunks, the second perhaps behind a closed window; label trees."""
    is_sparse, num_prefix = draw(st.booleans()), draw(st.sampled_from([0, 0, 1, 127, 131, 133, 300]))
    kv_heads = draw(st.sampled_from([1, 2, 4]))
    heads = kv_heads if is_sparse else 4
    chunks: list[PrefillChunk] = []
    row = draw(st.integers(0, 2))
    for slot in draw(st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True)):
        kept, length = draw(st.integers(0, 140)), draw(st.integers(1, 70))
        prefix = draw(st.sampled_from([0, num_prefix]))
        chunks.append(PrefillChunk(slot, row, length, kept, prefix))
        row, kept = row + length, kept + length
        if draw(st.booleans()):
            length, close_at = draw(st.integers(1, 32)), None
            if is_sparse and kept >= PATTERN.window_size:
                close_at = kept - PATTERN.window_size
                kept = close_at + PATTERN.global_size
            chunks.append(PrefillChunk(slot, row, length, kept, prefix, close_at))
            row, kept = row + length, kept + length
        if trees and draw(st.booleans()):
            length = draw(st.integers(1, 40))
            generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
            visible = torch.rand(draw(st.sampled_from([1, heads])), length, kept + length, generator=generator) < 0.4
            visible[:, range(length), range(kept, kept + length)] = True
            chunks.append(PrefillChunk(slot, row, length, kept, prefix, visible=visible))
            row += length
    dim, dtype = draw(st.sampled_from(DIMS)), draw(st.sampled_from(list(TOLERANCE)))
    return Step(chunks, heads, kv_heads, dim, num_prefix, dtype, is_sparse, draw(st.integers(0, 9)))


@quick
@given(steps())
def test_the_prefill_kernel_equals_dense_attention_and_updates_the_cache(step: Step) -> None:
    out, lse, cache = step.compiled()
    expected, expected_lse, expected_cache = step.expected()
    assert torch.allclose(out.double(), expected, atol=TOLERANCE[step.dtype], rtol=TOLERANCE[step.dtype])
    assert torch.allclose(lse.double(), expected_lse, atol=1e-4)
    assert torch.equal(cache.k, expected_cache.k)
    assert torch.equal(cache.v, expected_cache.v)


@quick
@given(steps())
def test_the_plain_backend_equals_dense_attention_without_the_prefix(step: Step) -> None:
    step.chunks = [PrefillChunk(p.slot, p.row, p.length, p.num_kept, 0, p.close_at, p.visible) for p in step.chunks]
    cache = step.cache()
    out, lse = plain.attend_chunks(step.q, step.k, step.v, cache, PrefillChunks(step.chunks), SCALE)
    expected, expected_lse, expected_cache = step.expected()
    assert torch.allclose(out.double(), expected, atol=TOLERANCE[step.dtype], rtol=TOLERANCE[step.dtype])
    assert torch.allclose(lse.double(), expected_lse, atol=1e-4)
    assert torch.equal(cache.k, expected_cache.k)


@quick
@given(steps(), st.sampled_from([2, 3]))
def test_a_slots_prefill_rows_have_the_bits_that_they_have_alone(step: Step, num_threads: int) -> None:
    with use_threads(num_threads):
        together, lse, _ = step.compiled()
    for slot in {chunk.slot for chunk in step.chunks}:
        own = [chunk for chunk in step.chunks if chunk.slot == slot]
        alone, alone_lse, _ = step.compiled(own)
        for chunk in own:
            rows = slice(chunk.row, chunk.row + chunk.length)
            assert torch.equal(together[rows], alone[rows])
            assert torch.equal(lse[rows], alone_lse[rows])


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("dim", DIMS)
def test_keys_that_no_row_sees_may_be_nan(dtype: torch.dtype, dim: int) -> None:
    step = Step([PrefillChunk(1, 1, 37, 50)], dtype=dtype, dim=dim)
    clean, _, _ = step.compiled()
    step.stored[:, 1, :, 50:] = step.stored[:, [0, 2, 3]] = torch.nan
    step.q[[0, 38, 39]] = step.k[[0, 38, 39]] = step.v[[0, 38, 39]] = torch.nan
    assert torch.equal(step.compiled()[0], clean)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_non_finite_key_affects_only_the_rows_that_see_it(dtype: torch.dtype, dim: int, bad: float) -> None:
    step = Step([PrefillChunk(0, 0, 40, 5), PrefillChunk(1, 40, 9, 5)], dtype=dtype, dim=dim)
    clean, _, _ = step.compiled()
    step.k[20] = bad
    out, _, _ = step.compiled()
    sees = torch.zeros(step.rows, dtype=torch.bool)
    sees[20:40] = True
    assert out[sees].isnan().any(-1).all()
    assert torch.equal(out[~sees], clean[~sees])


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("dim", DIMS)
def test_scores_far_apart_do_not_overflow(dtype: torch.dtype, dim: int) -> None:
    step = Step([PrefillChunk(0, 0, 33, 130)], dtype=dtype, dim=dim)
    step.q *= 200 / dim**0.5
    out, _, _ = step.compiled()
    expected, _, _ = step.expected()
    assert (out.double() - expected).abs().max() < 10 * TOLERANCE[dtype]


@quick
@given(
    lengths=st.tuples(st.integers(1, 140), st.integers(1, 140)).map(sorted),
    kept=st.sampled_from([0, 5, 131, 132, 150]),
    num_prefix=st.sampled_from([0, 7, 133]),
    dim=st.sampled_from(DIMS),
    dtype=st.sampled_from(list(TOLERANCE)),
)
def test_a_chunk_that_ends_earlier_gives_its_rows_the_same_bits(
    lengths: list[int], kept: int, num_prefix: int, dim: int, dtype: torch.dtype
) -> None:
    shorter, longer = lengths
    step = Step([PrefillChunk(0, 0, longer, kept, num_prefix)], num_prefix=num_prefix, dim=dim, dtype=dtype)
    whole, whole_lse, _ = step.compiled()
    out, lse, _ = step.compiled([PrefillChunk(0, 0, shorter, kept, num_prefix)])
    assert torch.equal(out[:shorter], whole[:shorter])
    assert torch.equal(lse[:shorter], whole_lse[:shorter])


@quick
@given(st.integers(1, 70), st.integers(1, 260), st.sampled_from([*DIMS, 20]), st.sampled_from(list(TOLERANCE)))
def test_every_row_attends_to_the_whole_prefix_on_a_cpu(
    rows: int, num_prefix: int, dim: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(4, n, dim, generator=generator).to(dtype) for n in (rows, num_prefix, num_prefix))
    if dim in DIMS:
        out, lse = torch.empty(rows, 4, dim, dtype=dtype), torch.empty(rows, 4)
        call = cpu_prefill.prefix_call(q.transpose(0, 1), PrefixKV(k, v), SCALE, (out, lse))
        cpu_prefill.set_num_rows(call, rows, PrefixKV(k, v))
        call.run()
    else:
        out, lse = plain.attend_prefix(q.transpose(0, 1), PrefixKV(k, v), SCALE)
    scores = q.double() @ k.double().transpose(1, 2) * SCALE
    expected = (scores.softmax(-1) @ v.double()).transpose(0, 1)
    assert torch.allclose(out.double(), expected, atol=TOLERANCE[dtype])
    assert torch.allclose(lse.double(), scores.logsumexp(-1).transpose(0, 1), atol=1e-4)
