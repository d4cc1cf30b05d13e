"""Merging model-parallel shards restores the tensors, whole and sliced, for any sizes and number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.model.checkpoints.samples import TINY_DENSE, random_weights, write_rugpts
from tirazh.model.checkpoints.directory import open_checkpoint
from tirazh.model.checkpoints.tensors import Bounds, LazyTensor, StoredTensor, TensorSlice, third, whole

RELAXED = settings(deadline=None, suppress_health_check=list(HealthCheck))


def stored(tensor: torch.Tensor) -> StoredTensor:
    """Return an in-memory tensor as a StoredTensor."""

    def read_box(box: Bounds) -> torch.Tensor:
        return tensor[tuple(slice(*bounds) for bounds in box)]

    dtype = str(tensor.dtype).removeprefix("torch.")
    return StoredTensor(file=Path("file"), name="name", shape=tuple(tensor.shape), dtype=dtype, read_box=read_box)


def slices(draw: st.DrawFn, shape: Sequence[int]) -> tuple[int, int, int]:
    dim = draw(st.integers(0, len(shape) - 1))
    start = draw(st.integers(0, shape[dim]))
    return dim, start, draw(st.integers(start, shape[dim]))


@st.composite
def lazy_tensors(draw: st.DrawFn) -> tuple[LazyTensor, torch.Tensor]:
    """Draw a LazyTensor over random shards of a random matrix, and the matrix."""
    mp = draw(st.sampled_from([1, 2, 4]))
    rows, columns = (mp * draw(st.integers(1, 5)) for _ in range(2))
    matrix = torch.arange(rows * columns, dtype=torch.float32).reshape(rows, columns)
    axis, is_transposed = draw(st.sampled_from([(0, False), (1, False), (0, True), (1, True)]))
    shards = [shard.T if is_transposed else shard for shard in matrix.chunk(mp, dim=axis)]
    return whole([stored(shard.contiguous()) for shard in shards], axis=axis, is_transposed=is_transposed), matrix


@RELAXED
@given(lazy_tensors(), st.data())
def test_a_slice_of_merged_shards_is_the_slice_of_the_matrix(
    case: tuple[LazyTensor, torch.Tensor], data: st.DataObject
) -> None:
    tensor, matrix = case
    assert tensor.shape == tuple(matrix.shape)
    assert torch.equal(tensor.read(), matrix)
    dim, start, stop = data.draw(st.composite(slices)(matrix.shape))
    assert torch.equal(tensor.read(dim, start, stop), matrix.narrow(dim, start, stop - start))


@RELAXED
@given(st.sampled_from([1, 2, 4]), st.integers(1, 4), st.integers(1, 5), st.booleans(), st.data())
def test_a_slice_of_q_k_or_v_is_read_from_the_fused_rows(
    mp: int, rows: int, columns: int, is_transposed: bool, data: st.DataObject
) -> None:
    q, k, v = (torch.rand(mp * rows, columns) for _ in range(3))
    fused = [torch.cat(parts) for parts in zip(q.chunk(mp), k.chunk(mp), v.chunk(mp), strict=True)]
    sources = [stored(part.T.contiguous() if is_transposed else part) for part in fused]
    for index, expected in enumerate((q, k, v)):
        tensor = third(sources, index, is_transposed=is_transposed)
        dim, start, stop = data.draw(st.composite(slices)(expected.shape))
        assert torch.equal(tensor.read(), expected)
        assert torch.equal(tensor.read(dim, start, stop), expected.narrow(dim, start, stop - start))


@settings(RELAXED, max_examples=20)
@given(st.sampled_from([1, 2, 4]), st.integers(1, 3), st.integers(1, 3), st.integers(0, 1000), st.data())
def test_checkpoints_of_any_size_are_restored(
    mp: int, num_layers: int, head_dim: int, seed: int, data: st.DataObject
) -> None:
    config = replace(TINY_DENSE, num_layers=num_layers, hidden_size=4 * head_dim, layout_groups=mp)
    weights = random_weights(config, seed=seed)
    with TemporaryDirectory() as folder:
        checkpoint = open_checkpoint(str(write_rugpts(Path(folder), weights, config, mp=mp)))
        assert checkpoint.config == config
        for name, expected in weights.items():
            dim, start, stop = data.draw(st.composite(slices)(expected.shape))
            assert torch.equal(checkpoint.read(name), expected)
            assert torch.equal(checkpoint.read(name, dim, start, stop), expected.narrow(dim, start, stop - start))


def test_a_slice_reads_only_the_files_it_covers() -> None:
    boxes: list[tuple[int, Bounds]] = []

    def shard(rank: int) -> StoredTensor:
        def read_box(box: Bounds) -> torch.Tensor:
            boxes.append((rank, box))
            return torch.zeros([stop - start for start, stop in box])

        return StoredTensor(file=Path("file"), name="name", shape=(6, 4), dtype="float32", read_box=read_box)

    tensor = LazyTensor(slices=tuple(TensorSlice(tensor=shard(rank), start=2, stop=4) for rank in range(4)))
    assert tensor.read(0, 3, 6).shape == (3, 4)
    assert boxes == [(1, ((3, 4), (0, 4))), (2, ((2, 4), (0, 4)))]
