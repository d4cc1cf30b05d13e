"""Where a training begins and ends: at another one's checkpoint, after the best evaluation, before bad weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.distributed import RankPool
from tests.model.training.cases import train
from tests.model.training.test_loop import alone, config, exported, keep_first_checkpoint, loss_of, losses, pair
from tirazh.model.training.checkpoint import find_checkpoints
from tirazh.model.training.config import OptimizerConfig, StartCheckpoint, TrainingConfig
from tirazh.model.training.log import read_log
from tirazh.model.training.loop import Training
from tirazh.model.training.selection import Selection

__all__ = ["alone", "config", "pair"]  # fixtures


def train_with_norm(config: TrainingConfig, values: dict[int, float]) -> list[dict[str, Any]]:
    """Train; the gradient norm of some steps, counted from 1, is replaced."""
    training = Training(config)
    made, step = [0], training._engine.step

    def patched(*given: Any) -> tuple[float, float]:
        made[0] += 1
        loss, norm = step(*given)
        return loss, values.get(made[0], norm)

    training._engine.step = patched  # type: ignore[method-assign]
    training.run()
    return read_log(Path(config.log))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_step_whose_norm_is_not_finite_are_not_saved(
    value: float, config: TrainingConfig, alone: RankPool
) -> None:
    """The last of six steps, at which a checkpoint is due."""
    (log,) = alone.run(train_with_norm, config, {6: value})
    assert log[-1] == {"step": 6, "stopped": f"the gradient norm is {value} at step 6"}
    assert [each.step for each in find_checkpoints(Path(config.checkpoints), config.training)] == [3]


def train_to_infinite_weights(config: TrainingConfig) -> list[dict[str, Any]]:
    """Train; one weight is not finite when the first checkpoint is written."""
    training = Training(config)
    gather = training._engine.gather
    name = next(iter(training._shapes))

    def patched(tensor: str, state: str) -> torch.Tensor:
        found = gather(tensor, state)
        return torch.full_like(found, float("inf")) if (tensor, state) == (name, "weights") else found

    training._engine.gather = patched  # type: ignore[method-assign]
    training.run()
    return read_log(Path(config.log))


def test_weights_that_are_not_finite_are_not_saved(config: TrainingConfig, pair: RankPool) -> None:
    log = pair.run(train_to_infinite_weights, config)[0]
    assert log[-1]["stopped"].endswith("is not finite after step 3, so no checkpoint of it is written")
    assert list(Path(config.checkpoints).iterdir()) == []


def test_a_checkpoint_with_weights_that_are_not_finite_is_refused(config: TrainingConfig, alone: RankPool) -> None:
    alone.run(train, config)
    keep_first_checkpoint(config)
    (checkpoint,) = find_checkpoints(Path(config.checkpoints), config.training)
    path = checkpoint.folder / "weights.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, path)
    (log,) = alone.run(train, config)
    assert "holds values that are not finite in model.norm.weight" in log[-1]["stopped"]
    assert [entry["step"] for entry in log] == [1, 2, 3, 3]


def test_a_new_training_is_evaluated_before_its_first_step_and_a_resumed_one_is_not(
    config: TrainingConfig, alone: RankPool
) -> None:
    config = replace(config, eval_data=config.train_data)
    (log,) = alone.run(train, config)
    assert [(entry["step"], "loss" in entry) for entry in log[:2]] == [(0, False), (1, True)]
    assert log[0]["perplexity"] > log[-1]["perplexity"]
    assert log[0]["seconds"] > 0
    keep_first_checkpoint(config)
    (resumed,) = alone.run(train, config)
    assert [entry["step"] for entry in resumed] == [entry["step"] for entry in log]


def test_a_training_from_a_checkpoint_goes_on_as_if_it_had_been_longer(
    config: TrainingConfig, alone: RankPool, tmp_path: Path
) -> None:
    """Six steps and then three more, at a constant rate, are nine steps to the last bit."""
    constant = OptimizerConfig(learning_rate=3e-3, schedule="constant")
    config = replace(config, optimizer=constant)
    straight = replace(
        config, total_steps=9, checkpoints=str(tmp_path / "straight"), log=str(tmp_path / "straight.jsonl")
    )
    (whole,) = alone.run(train, straight)
    alone.run(train, config)
    newest = find_checkpoints(Path(config.checkpoints), config.training)[-1]
    longer = replace(
        config,
        training="1" * 32,
        total_steps=9,
        checkpoints=str(tmp_path / "longer"),
        log=str(tmp_path / "longer.jsonl"),
        start=StartCheckpoint(folder=str(newest.folder), step=6),
        first_step=6,
    )
    (log,) = alone.run(train, longer)
    assert [entry["step"] for entry in log] == [7, 8, 9]
    assert losses(log) == losses(whole)[6:]
    ends = [find_checkpoints(Path(each.checkpoints), each.training)[-1].folder for each in (straight, longer)]
    for name in ("weights", "exp_avg", "exp_avg_sq"):
        one, two = ((folder / f"{name}.safetensors").read_bytes() for folder in ends)
        assert one == two


def test_a_new_optimizer_starts_from_the_weights_of_a_checkpoint(
    config: TrainingConfig, alone: RankPool, tmp_path: Path
) -> None:
    alone.run(train, config)
    newest = find_checkpoints(Path(config.checkpoints), config.training)[-1]
    start = StartCheckpoint(folder=str(newest.folder), step=6, with_optimizer=False)
    more = {"training": "1" * 32, "log": str(tmp_path / "more.jsonl"), "start": start, "first_step": 6}
    frozen = OptimizerConfig(learning_rate=1e-12)
    (log,) = alone.run(train, replace(config, **more, total_steps=7, optimizer=frozen))
    assert losses(log) == [pytest.approx(loss_of(exported(config, tmp_path / "out"), config, step=6), abs=1e-5)]
    made = find_checkpoints(Path(config.checkpoints), "1" * 32)[-1]
    assert made.state()["updates"] == 1


@pytest.mark.parametrize("stops_after", [None, 2])
def test_the_best_checkpoint_is_kept_and_patience_ends_the_training(
    stops_after: int | None, config: TrainingConfig, alone: RankPool
) -> None:
    """With a rate of nearly 0 all evaluations are equal, and the first is the best; stopped and resumed, too."""
    selection = Selection(keep="best", patience=2)
    config = replace(
        config,
        eval_data=config.train_data,
        eval_steps=1,
        total_steps=12,
        keep_checkpoints=1,
        save_steps=100,
        selection=selection,
        optimizer=OptimizerConfig(learning_rate=1e-30, schedule="constant"),
    )
    if stops_after is not None:
        (log,) = alone.run(train, replace(config, total_steps=stops_after))
        assert log[-1]["step"] <= stops_after
    (log,) = alone.run(train, config)
    best = selection.best(log)
    assert best is not None
    assert best["step"] == 1
    assert log[-1] == {"step": 3, "ended": "no better perplexity in 2 evaluations"}
    assert [each.step for each in find_checkpoints(Path(config.checkpoints), config.training)] == [1, 3]
    assert alone.run(train, config) == [log], "a training that has ended does not go on"
