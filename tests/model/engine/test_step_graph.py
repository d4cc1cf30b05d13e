"""Ranks use CUDA graphs together or not at all. What is captured needs a GPU: `tests/model/attention/test_gpu.py`."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.distributed import RankPool, own_place, run_distributed
from tirazh.model.engine.step_graph import all_capture
from tirazh.model.tensor_parallel import agree_on_least


@pytest.fixture(scope="module")
def two_ranks() -> Iterator[RankPool]:
    with run_distributed(2) as ranks:
        yield ranks


def capture_in_turn(failing: list[set[int]]) -> list[bool]:
    """For each set of ranks, capture where those fail; returns what the captures say on this rank."""

    def fail() -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    def agree(value: bool) -> bool:
        return bool(agree_on_least(int(value)))

    logging.disable(logging.CRITICAL)
    rank = own_place().rank
    return [all_capture(fail if rank in ranks else dict, agree) for ranks in failing]


def test_a_capture_counts_only_if_it_succeeds_on_every_rank(two_ranks: RankPool) -> None:
    failing: list[set[int]] = [set(), {0}, {1}, {0, 1}, set()]
    assert two_ranks.run(capture_in_turn, failing) == [[True, False, False, False, True]] * 2


def test_only_what_a_capture_raises_is_taken_for_its_failure(caplog: pytest.LogCaptureFixture) -> None:
    def lack_memory() -> None:
        raise RuntimeError("out of memory")

    def break_off() -> None:
        raise KeyboardInterrupt

    assert all_capture(lambda: None, bool)
    assert not all_capture(lack_memory, bool)
    assert [record.message for record in caplog.records] == ["a CUDA graph cannot be captured here: out of memory"]
    with pytest.raises(KeyboardInterrupt):
        all_capture(break_off, bool)
