"""A training gives the same curve whoever runs it: any number of workers, any ZeRO stage, interrupted or not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.training_checkpoint import find_checkpoints
from model.training_plan import TrainingPlan
from tests.distributed import RankPool, run_distributed
from tests.model.training_cases import train, training_plan


@pytest.fixture(scope="module")
def alone() -> Iterator[RankPool]:
    with run_distributed(1) as pool:
        yield pool


@pytest.fixture(scope="module")
def pair() -> Iterator[RankPool]:
    with run_distributed(2) as pool:
        yield pool


@pytest.fixture
def plan(tmp_path: Path) -> TrainingPlan:
    return training_plan(tmp_path)


@pytest.fixture(scope="module")
def curve(alone: RankPool, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of one worker without ZeRO."""
    (log,) = alone.run(train, training_plan(tmp_path_factory.mktemp("curve")))
    return losses(log)


def losses(log: list[dict[str, Any]]) -> list[float]:
    return [entry["loss"] for entry in log if "loss" in entry]


def test_a_training_learns(curve: list[float]) -> None:
    assert len(curve) == 6
    assert curve[-1] < curve[0] - 0.3


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_of_one_worker_is_the_same_training(
    stage: int, plan: TrainingPlan, alone: RankPool, curve: list[float]
) -> None:
    (log,) = alone.run(train, replace(plan, zero_stage=stage))
    assert losses(log) == pytest.approx(curve, abs=1e-5)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_workers_give_the_curve_of_one(stage: int, plan: TrainingPlan, pair: RankPool, curve: list[float]) -> None:
    """Five sequences, two workers: one of them runs two and the other three."""
    log, _ = pair.run(train, replace(plan, zero_stage=stage))
    assert losses(log) == pytest.approx(curve, abs=1e-5)


@pytest.mark.parametrize(("stage", "dtype"), [(0, "float32"), (1, "bfloat16"), (2, "float32"), (3, "bfloat16")])
def test_a_training_goes_on_exactly_where_its_checkpoint_was_taken(
    stage: int, dtype: str, plan: TrainingPlan, alone: RankPool
) -> None:
    """Two steps beyond the checkpoint were made, and are made again, to the last bit."""
    plan = replace(plan, zero_stage=stage, dtype=dtype)
    (whole,) = alone.run(train, plan)
    keep_first_checkpoint(plan)
    (log,) = alone.run(train, plan)
    assert [entry["step"] for entry in log] == [1, 2, 3, 4, 5, 6]
    assert losses(log) == losses(whole)


@pytest.mark.parametrize(("stage", "dtype"), [(0, "float32"), (1, "bfloat16"), (3, "float32")])
def test_one_worker_takes_up_what_two_began_at_another_stage(
    stage: int, dtype: str, plan: TrainingPlan, alone: RankPool, pair: RankPool
) -> None:
    plan = replace(plan, zero_stage=stage, dtype=dtype)
    whole = losses(pair.run(train, plan)[0])
    keep_first_checkpoint(plan)
    (log,) = alone.run(train, replace(plan, zero_stage=2))
    assert losses(log) == pytest.approx(whole, abs=1e-5 if dtype == "float32" else 0.02)


def keep_first_checkpoint(plan: TrainingPlan) -> None:
    """As if the workers had been killed after it."""
    for checkpoint in find_checkpoints(Path(plan.checkpoints))[1:]:
        shutil.rmtree(checkpoint.folder)
