"""Checkpoints in a store: they count when they are whole, wherever the run that wrote or removed them was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tirazh.errors import JobError, StorageError
from tirazh.model.training.checkpoint import TrainingState, find_checkpoints, write_checkpoint
from tirazh.pipeline.finetune.remote.checkpoints import LOG, MARKER, StoredCheckpoints, log_until
from tirazh.pipeline.finetune.work_folder import WorkFolder
from tirazh.pipeline.storage.filesystem import Storage

T = TypeVar("T")
TRAINING = "5f3c9a01" * 4


class Fence:
    """A fence that is lost after a number of changes."""

    def __init__(self, changes: int = 1_000) -> None:
        self.left = changes

    def guard(self, action: Callable[[], T], *, undo: Callable[[], None] | None = None) -> T:
        if self.left <= 0:
            raise JobError("another run has taken over")
        self.left -= 1
        return action()


def state(step: int) -> TrainingState:
    return TrainingState(
        training=TRAINING,
        step=step,
        shapes={"w": (2, 2)},
        states=("m",),
        gather=lambda name, kind: torch.full((2, 2), float(step)),
        scalars={},
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    """Checkpoints of three steps, and a log of four."""
    work = WorkFolder(tmp_path_factory.mktemp("work"))
    for step in (10, 20, 30):
        write_checkpoint(work.checkpoints, state(step), keep=9)
    work.log.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (10, 20, 30, 40)))
    return work


def store() -> StoredCheckpoints:
    return StoredCheckpoints(Storage(), f"memory://stored-{uuid4().hex}/checkpoints", TRAINING)


def upload(stored: StoredCheckpoints, work: WorkFolder, step: int, fence: Fence, run: str = "0" * 8) -> None:
    (checkpoint,) = (each for each in find_checkpoints(work.checkpoints, TRAINING) if each.step == step)
    stored.upload(checkpoint, work.log, fence, run=run)
    (checkpoint.folder / LOG).unlink()


def test_a_checkpoint_comes_back_as_it_was_with_the_log_up_to_its_step(work: WorkFolder, tmp_path: Path) -> None:
    stored, there = store(), WorkFolder(tmp_path)
    upload(stored, work, 20, Fence())
    (found,) = stored.find()
    assert found.step == 20
    stored.fetch(found, there, with_log=True)
    (brought,) = find_checkpoints(there.checkpoints, TRAINING)
    (own,) = (each for each in find_checkpoints(work.checkpoints, TRAINING) if each.step == 20)
    assert {path.name: path.read_bytes() for path in brought.folder.iterdir()} == {
        path.name: path.read_bytes() for path in own.folder.iterdir()
    }
    assert there.log.read_bytes() == log_until(work.log, 20)
    assert [json.loads(line)["step"] for line in there.log.read_text().splitlines()] == [10, 20]


@given(changes=st.integers(0, 12))
def test_a_run_that_is_stopped_anywhere_leaves_whole_checkpoints_alone(work: WorkFolder, changes: int) -> None:
    """It uploads the one of step 20 beside that of step 10, which it then removes."""
    stored = store()
    upload(stored, work, 10, Fence())
    fence = Fence(changes)
    try:
        upload(stored, work, 20, fence)
        stored.remove_others(stored.find()[-1:], fence)
    except JobError:
        assert fence.left == 0
    found = stored.find()
    assert [each.step for each in found] in ([10], [10, 20], [20])
    for each in found:
        assert set(stored.storage.names(each.uri)) == {*each.files, MARKER}
    upload(stored, work, 30, Fence(), run="1" * 8)
    stored.remove_others(stored.find()[-1:], Fence())
    assert [each.step for each in stored.find()] == [30]
    assert len(stored.storage.directories(stored.root)) == 1, "what killed runs left is removed"


def test_two_runs_that_write_the_same_step_do_not_mix_their_files(work: WorkFolder) -> None:
    stored = store()
    with pytest.raises(JobError):
        upload(stored, work, 10, Fence(2), run="a" * 8)
    (work.checkpoints / find_checkpoints(work.checkpoints, TRAINING)[0].folder.name / LOG).unlink(missing_ok=True)
    upload(stored, work, 10, Fence(), run="b" * 8)
    (found,) = stored.find()
    assert found.uri.endswith(f".{'b' * 8}")


def test_a_damaged_checkpoint_is_not_taken(work: WorkFolder, tmp_path: Path) -> None:
    stored, there = store(), WorkFolder(tmp_path)
    upload(stored, work, 10, Fence())
    (found,) = stored.find()
    uri = f"{found.uri}/weights.safetensors"
    data = bytearray(stored.storage.read(uri))
    data[-1] ^= 1
    stored.storage.write(uri, bytes(data))
    with pytest.raises(StorageError, match=r"weights\.safetensors has another content"):
        stored.fetch(found, there, with_log=True)
    assert list(there.checkpoints.iterdir()) == []
    assert not there.log.exists()


def test_those_of_another_training_and_damaged_markers_do_not_count(work: WorkFolder) -> None:
    stored = store()
    upload(stored, work, 10, Fence())
    other = StoredCheckpoints(stored.storage, stored.root, "0" * 32)
    assert other.find() == []
    stored.storage.write(f"{stored.find()[0].uri}/{MARKER}", b'{"format": 1')
    assert stored.find() == []
