"""A table whose chunks reach outside the tensors is refused before the kernel runs, with and without assertions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tirazh.model.attention.chunk_table import ChunkLimits, ChunkTable
from tirazh.model.attention.step_layout import DecodeRows
from tirazh.model.kernels import build
from tirazh.model.kernels.tables import ChunkRow

REPOSITORY = Path(__file__).resolve().parents[3]
LIMITS = ChunkLimits(num_rows=10, num_own=10, num_heads=4, num_slots=3, capacity=32, num_prefix=7, closing=8)
GOOD = ChunkRow(slot=2, row=4, length=6, prefix_count=7, close_at=24, kept=26, num_own=6, is_kept=1)
TREE = ChunkRow(slot=0, row=0, length=5, kept=20, num_own=5, mask_at=0, mask_head=25 * 32)


def test_a_table_inside_its_tensors_is_taken() -> None:
    ChunkTable([GOOD, TREE], [torch.zeros(4, 25, 32)]).check(LIMITS)
    ChunkTable([]).check(LIMITS)


@pytest.mark.parametrize(
    "change",
    [
        *({"slot": 3}, {"slot": -1}, {"row": 5}, {"row": -1}, {"length": 7}, {"length": -1}),
        *({"prefix_count": 6}, {"close_at": 25}, {"close_at": -2}, {"kept": 27}, {"kept": -1}),
        *({"num_own": 5}, {"num_own": 0}, {"mask_at": 0}),
    ],
    ids=str,
)
def test_a_chunk_outside_its_tensors_is_refused(change: dict[str, int]) -> None:
    table = ChunkTable([TREE, GOOD._replace(**change)], [torch.zeros(4, 25, 32)])
    if change == {"mask_at": 0}:  # two times the keys, so that the mask is too short
        table = ChunkTable([TREE._replace(kept=27)], [torch.zeros(4, 25, 32)])
    with pytest.raises(ValueError, match="outside its tensors"):
        table.check(LIMITS)


def test_what_fits_one_layer_is_checked_again_for_a_smaller_one() -> None:
    table = ChunkTable([GOOD])
    table.check(LIMITS)
    with pytest.raises(ValueError, match="outside its tensors"):
        table.check(LIMITS._replace(capacity=31))


@pytest.mark.parametrize(
    ("slots", "ends", "longest"),
    [([0, 3], [1, 1], 2), ([0, -2], [1, 1], 2), ([0, 1], [1, 16], 17), ([0, 1], [-1, 3], 4), ([0, 1], [1, 5], 5)],
)
def test_a_decoded_row_outside_the_cache_is_refused(slots: list[int], ends: list[int], longest: int) -> None:
    with pytest.raises(ValueError, match="of a decode step goes to key"):
        DecodeRows(torch.tensor(slots), torch.tensor(ends), longest).check(3, 16)


def test_an_idle_row_may_have_any_end() -> None:
    DecodeRows(torch.tensor([-1, 2]), torch.tensor([99, 15]), 16).check(3, 16)


@pytest.mark.skipif(build.load_kernel("decode_attention") is None, reason="no C compiler on this machine")
def test_the_checks_do_not_depend_on_assertions() -> None:
    """A decode step at key 4,000 of 16: without the check it writes far behind the cache."""
    code = """
import torch
from tirazh.model.attention.backends import cpu_decode
from tirazh.model.attention.step_layout import DecodeRows
x, cache = torch.zeros(1, 1, 16), torch.zeros(1, 1, 16, 16)
rows = DecodeRows(torch.tensor([0]), torch.tensor([4000]), 4001)
try:
    cpu_decode.attend_call(x, x, x, cache, cache.clone(), rows, 1.0, x.clone(), x[..., 0].clone())
except ValueError as error:
    print("refused:", error)
"""
    done = subprocess.run(
        [sys.executable, "-O", "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused")
