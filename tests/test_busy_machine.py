"""benchmarks/hog.py: the engine beside a process that keeps one core busy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from benchmarks.hog import busy_core, measure_busy
from benchmarks.model_under_test import SHAPES, ModelUnderTest
from benchmarks.peers.ours import Ours
from benchmarks.workloads import build_workload

TINY = SHAPES["tiny"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def under_test(tmp_path: Path) -> ModelUnderTest:
    return ModelUnderTest(TINY, tmp_path)


def test_a_busy_machine_is_compared_with_the_same_engine_on_a_quiet_one(under_test: ModelUnderTest) -> None:
    workload = build_workload("ragged", TINY, num_rows=2)
    experiment = measure_busy(under_test, workload, [Ours("float32", "dense", slots=2)], repeat=1)
    ((_, quiet, busy, share, _),) = experiment.rows
    assert [goal.measured for goal in experiment.goals] == [share] == [pytest.approx(float(quiet) / float(busy))]


def test_the_busy_process_ends_with_its_block() -> None:
    with busy_core() as core:
        assert core == min(os.sched_getaffinity(0))
