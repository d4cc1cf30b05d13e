"""Checkpoints of two trainings in one directory: neither sees, replaces or removes those of the other."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tirazh.errors import CheckpointError, JobError
from tirazh.model.training.checkpoint import TrainingState, find_checkpoints, write_checkpoint

T = TypeVar("T")
FIRST, SECOND = "a" * 32, "b" * 32
VALUES = {FIRST: 1.0, SECOND: 2.0}
SHAPES = {"w": (2, 3)}


class Fence:
    """A fence that is lost after a number of checks."""

    def __init__(self, checks: int) -> None:
        self.left = checks

    def guard(self, action: Callable[[], T], *, undo: Callable[[], None] | None = None) -> T:
        self.left -= 1
        if self.left < 0:
            raise JobError("another run has taken over")
        return action()


def state(training: str, step: int, *, value: float | None = None) -> TrainingState:
    """The state of a training whose weights all have the same value."""
    whole = torch.full(SHAPES["w"], VALUES[training] if value is None else value)
    return TrainingState(
        training=training, step=step, shapes=SHAPES, states=("m",), gather=lambda name, kind: whole, scalars={}
    )


def write(folder: Path, training: str, step: int, *, keep: int = 2) -> None:
    write_checkpoint(folder, state(training, step), keep=keep)


def steps(folder: Path, training: str) -> list[int]:
    return [each.step for each in find_checkpoints(folder, training)]


def test_a_run_that_took_over_keeps_and_resumes_from_its_own_checkpoints(tmp_path: Path) -> None:
    """The first run's workers continue at steps 4,500 and 5,000, the last step of the second run too."""
    write(tmp_path, SECOND, 100)
    write(tmp_path, FIRST, 4500)
    write(tmp_path, FIRST, 5000)
    write(tmp_path, SECOND, 200)
    assert steps(tmp_path, SECOND) == [100, 200]
    newest = find_checkpoints(tmp_path, SECOND)[-1]
    assert newest.weight_rows("w", 0, 2).tolist() == torch.full((2, 3), 2.0).tolist()


writes = st.tuples(st.sampled_from([FIRST, SECOND]), st.integers(1, 6))


@settings(max_examples=40, deadline=None)
@given(schedule=st.lists(writes, max_size=12), keep=st.integers(1, 3))
def test_any_interleaving_of_two_trainings_equals_each_of_them_alone(
    schedule: list[tuple[str, int]], keep: int
) -> None:
    """What a training finds after any schedule is what it finds when the other one never ran."""
    with tempfile.TemporaryDirectory() as both:
        for training, step in schedule:
            write(Path(both), training, step, keep=keep)
        for training in (FIRST, SECOND):
            with tempfile.TemporaryDirectory() as alone:
                for owner, step in schedule:
                    if owner == training:
                        write(Path(alone), training, step, keep=keep)
                assert steps(Path(both), training) == steps(Path(alone), training)
            for found in find_checkpoints(Path(both), training):
                assert found.weight_rows("w", 0, 1)[0, 0] == VALUES[training]


def test_two_runs_that_write_the_same_step_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    """A second run of the same training writes a whole checkpoint while the first one gathers its weights."""

    def gather(name: str, kind: str) -> torch.Tensor:
        if kind == "m":
            write_checkpoint(tmp_path, state(SECOND, 5), keep=2)
        return torch.full((2, 3), 1.0)

    slow = TrainingState(training=FIRST, step=5, shapes=SHAPES, states=("m",), gather=gather, scalars={})
    write_checkpoint(tmp_path, slow, keep=2)
    assert find_checkpoints(tmp_path, FIRST)[0].weight_rows("w", 0, 1)[0, 0] == 1.0
    assert find_checkpoints(tmp_path, SECOND)[0].weight_rows("w", 0, 1)[0, 0] == 2.0


def test_a_checkpoint_is_never_replaced(tmp_path: Path) -> None:
    write(tmp_path, FIRST, 5)
    write_checkpoint(tmp_path, state(FIRST, 5, value=9.0), keep=2)
    (found,) = find_checkpoints(tmp_path, FIRST)
    assert found.weight_rows("w", 0, 1)[0, 0] == 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == [found.folder.name]


def test_a_checkpoint_whose_name_is_of_this_training_and_whose_state_is_not_is_ignored(tmp_path: Path) -> None:
    """Two ids with the same first 8 digits."""
    other = FIRST[:8] + "c" * 24
    write_checkpoint(tmp_path, state(FIRST, 5), keep=2)
    assert steps(tmp_path, FIRST) == [5]
    assert steps(tmp_path, other) == []


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, FIRST, 5)
    path = find_checkpoints(tmp_path, FIRST)[0].folder / "state.json"
    path.write_text(json.dumps({"format": 1, "step": 5}))
    with pytest.raises(CheckpointError, match=rf"{path} is damaged or of another version; remove {path.parent}"):
        find_checkpoints(tmp_path, FIRST)


def test_what_a_killed_worker_left_is_removed_but_not_that_of_another_training(tmp_path: Path) -> None:
    left = [tmp_path / f".step-00000003-{training[:8]}.{'0' * 32}.partial" for training in (FIRST, SECOND)]
    for path in left:
        path.mkdir()
    write(tmp_path, FIRST, 5)
    assert [path.exists() for path in left] == [False, True]


@pytest.mark.parametrize("checks", [0, 1])
def test_a_fenced_worker_publishes_no_checkpoint(checks: int, tmp_path: Path) -> None:
    """Fenced before it gathers the weights, or while it does."""
    with pytest.raises(JobError, match="another run has taken over"):
        write_checkpoint(tmp_path, state(FIRST, 5), keep=2, fence=Fence(checks))
    assert list(tmp_path.iterdir()) == []


def test_a_fenced_worker_removes_no_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, FIRST, 5)
    with pytest.raises(JobError, match="another run has taken over"):
        write_checkpoint(tmp_path, state(FIRST, 6), keep=1, fence=Fence(2))
    assert steps(tmp_path, FIRST) == [5, 6]
