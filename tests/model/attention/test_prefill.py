"""Both ways of a prefill step's attention give what plain attention does, and each row the bits that it has alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.model.tiny import use_threads
from tirazh.model.attention.backends import cpu, cpu_prefill, plain
from tirazh.model.attention.kv_cache import LayerCache, PrefixKV
from tirazh.model.attention.layer_shape import LayerShape
from tirazh.model.attention.prefill_chunks import PrefillChunk, PrefillChunks
from tirazh.model.config import SparsePattern
from tirazh.model.kernels import build

pytestmark = pytest.mark.skipif(
    build.load_kernel("prefill_attention") is None, reason="no C compiler on this machine: the plain way is taken"
)
SCALE, CAPACITY = 0.3, 320
PATTERN = SparsePattern(block_size=16, num_local_blocks=2, num_global_blocks=1, num_different_global_patterns=1)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
# Every way of multiplying has its own: where the CPU has tiles for bfloat16, they take multiples of 32.
DIMS = (16, 32, 64, 80, 96)
quick = settings(max_examples=40, deadline=None)


@dataclass
class Step:
    """Pieces of up to four slots, one behind the other, over a cache and a prefix of random numbers."""

    pieces: list[PrefillChunk]
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

        self.rows = max(piece.row + piece.length for piece in self.pieces) + 2
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

    def compiled(self, pieces: list[PrefillChunk] | None = None) -> tuple[Tensor, Tensor, LayerCache]:
        cache, prefix = self.cache(), self.prefix if self.num_prefix else None
        chosen = PrefillChunks(self.pieces if pieces is None else pieces)
        return *cpu_prefill.attend_compiled(self.q, self.k, self.v, cache, chosen, SCALE, prefix), cache

    def expected(self) -> tuple[Tensor, Tensor, LayerCache]:
        """In float64, piece after piece, with the whole softmax in one."""
        cache, groups = self.cache(), self.heads // self.kv_heads
        out = torch.zeros(self.rows, self.heads, self.dim, dtype=torch.float64)
        lse = torch.full((self.rows, self.heads), -torch.inf, dtype=torch.float64)
        for piece in self.pieces:
            if piece.close_at is not None:
                cache.close_window(piece.slot, piece.close_at)
            rows = slice(piece.row, piece.row + piece.length)
            k, v = (
                torch.cat([p[:, : piece.num_prefix], x[piece.slot, :, : piece.num_kept], own[rows].transpose(0, 1)], 1)
                for p, x, own in zip(self.prefix, (cache.k, cache.v), (self.k, self.v), strict=True)
            )
            visible = piece.visible
            if visible is None:
                end = piece.num_kept + piece.length
                visible = torch.ones(1, piece.length, end, dtype=torch.bool).tril(piece.num_kept)
                cache.k[piece.slot, :, piece.num_kept : end] = self.k[rows].transpose(0, 1)
                cache.v[piece.slot, :, piece.num_kept : end] = self.v[rows].transpose(0, 1)
            before = torch.ones(len(visible), piece.length, piece.num_prefix, dtype=torch.bool)
            k, v = (x.double().repeat_interleave(groups, 0) for x in (k, v))
            scores = self.q[rows].transpose(0, 1).double() @ k.transpose(1, 2) * SCALE
            scores = scores.masked_fill(~torch.cat([before, visible], 2), -torch.inf)
            out[rows] = (scores.softmax(-1) @ v).transpose(0, 1)
            lse[rows] = scores.logsumexp(-1).transpose(0, 1)
        return out, lse, cache


@st.composite
def steps(draw: st.DrawFn, *, trees: bool = True) -> Step:
    """Prompts of some slots in one or two pieces, the second perhaps behind a closed window; label trees."""
    is_sparse, num_prefix = draw(st.booleans()), draw(st.sampled_from([0, 0, 1, 127, 129, 300]))
    kv_heads = draw(st.sampled_from([1, 2, 4]))
    heads = kv_heads if is_sparse else 4
    pieces: list[PrefillChunk] = []
    row = draw(st.integers(0, 2))
    for slot in draw(st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True)):
        kept, length = draw(st.integers(0, 140)), draw(st.integers(1, 70))
        prefix = draw(st.sampled_from([0, num_prefix]))
        pieces.append(PrefillChunk(slot, row, length, kept, prefix))
        row, kept = row + length, kept + length
        if draw(st.booleans()):
            length, close_at = draw(st.integers(1, 32)), None
            if is_sparse and kept >= PATTERN.window_size:
                close_at = kept - PATTERN.window_size
                kept = close_at + PATTERN.global_size
            pieces.append(PrefillChunk(slot, row, length, kept, prefix, close_at))
            row, kept = row + length, kept + length
        if trees and draw(st.booleans()):
            length = draw(st.integers(1, 40))
            generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
            visible = torch.rand(draw(st.sampled_from([1, heads])), length, kept + length, generator=generator) < 0.4
            visible[:, range(length), range(kept, kept + length)] = True
            pieces.append(PrefillChunk(slot, row, length, kept, prefix, visible=visible))
            row += length
    dim, dtype = draw(st.sampled_from(DIMS)), draw(st.sampled_from(list(TOLERANCE)))
    return Step(pieces, heads, kv_heads, dim, num_prefix, dtype, is_sparse, draw(st.integers(0, 9)))


@quick
@given(steps())
def test_the_kernel_is_plain_attention_and_keeps_what_it_should(step: Step) -> None:
    out, lse, cache = step.compiled()
    expected, expected_lse, expected_cache = step.expected()
    assert torch.allclose(out.double(), expected, atol=TOLERANCE[step.dtype], rtol=TOLERANCE[step.dtype])
    assert torch.allclose(lse.double(), expected_lse, atol=1e-4)
    assert torch.equal(cache.k, expected_cache.k)
    assert torch.equal(cache.v, expected_cache.v)


@quick
@given(steps())
def test_torch_gives_the_same_without_the_prefix(step: Step) -> None:
    step.pieces = [PrefillChunk(p.slot, p.row, p.length, p.num_kept, 0, p.close_at, p.visible) for p in step.pieces]
    cache = step.cache()
    out, lse = plain.attend_chunks(step.q, step.k, step.v, cache, PrefillChunks(step.pieces), SCALE)
    expected, expected_lse, expected_cache = step.expected()
    assert torch.allclose(out.double(), expected, atol=TOLERANCE[step.dtype], rtol=TOLERANCE[step.dtype])
    assert torch.allclose(lse.double(), expected_lse, atol=1e-4)
    assert torch.equal(cache.k, expected_cache.k)


@quick
@given(steps(), st.sampled_from([2, 3]))
def test_a_slots_rows_have_the_bits_that_they_have_alone(step: Step, num_threads: int) -> None:
    with use_threads(num_threads):
        together, lse, _ = step.compiled()
    for slot in {piece.slot for piece in step.pieces}:
        own = [piece for piece in step.pieces if piece.slot == slot]
        alone, alone_lse, _ = step.compiled(own)
        for piece in own:
            rows = slice(piece.row, piece.row + piece.length)
            assert torch.equal(together[rows], alone[rows])
            assert torch.equal(lse[rows], alone_lse[rows])


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("dim", DIMS)
def test_what_no_row_may_see_may_be_nan(dtype: torch.dtype, dim: int) -> None:
    step = Step([PrefillChunk(1, 1, 37, 50)], dtype=dtype, dim=dim)
    clean, _, _ = step.compiled()
    step.stored[:, 1, :, 50:] = step.stored[:, [0, 2, 3]] = torch.nan
    step.q[[0, 38, 39]] = step.k[[0, 38, 39]] = step.v[[0, 38, 39]] = torch.nan
    assert torch.equal(step.compiled()[0], clean)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_number_that_is_none_stays_with_the_rows_that_see_it(dtype: torch.dtype, dim: int, bad: float) -> None:
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
@given(st.integers(1, 70), st.integers(1, 260), st.sampled_from([*DIMS, 20]), st.sampled_from(list(TOLERANCE)))
def test_every_row_over_the_whole_prefix(rows: int, num_prefix: int, dim: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(4, n, dim, generator=generator).to(dtype) for n in (rows, num_prefix, num_prefix))
    out, lse = cpu.attend_prefix(q.transpose(0, 1), PrefixKV(k, v), SCALE)
    scores = q.double() @ k.double().transpose(1, 2) * SCALE
    expected = (scores.softmax(-1) @ v.double()).transpose(0, 1)
    assert torch.allclose(out.double(), expected, atol=TOLERANCE[dtype])
    assert torch.allclose(lse.double(), scores.logsumexp(-1).transpose(0, 1), atol=1e-4)
