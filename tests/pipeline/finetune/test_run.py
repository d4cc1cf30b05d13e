"""Two trainings in one output: after a takeover the former holder changes nothing, in whatever order they act."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pipeline.finetune.test_output import IDENTITY, request
from tirazh.errors import JobError
from tirazh.model.training.checkpoint import TrainingState, find_checkpoints, write_checkpoint
from tirazh.pipeline.finetune.output import TrainingOutput
from tirazh.pipeline.finetune.publish import Result, publish_model
from tirazh.pipeline.output.leases.fence import LeaseToken
from tirazh.pipeline.output.leases.lease import hold
from tirazh.pipeline.output.leases.record import LeaseRecord, read_epoch
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.storage.filesystem import Storage

STEPS, LEASE_S = 4, 600.0
FIRST, SECOND = {"seed": 1}, {"seed": 2}


def training(output: TrainingOutput, token: LeaseToken, **changes: Any) -> Iterator[None]:
    """One training, one action at a time: its request, its checkpoints, its model. The model's text is the seed."""
    made = request(**changes)
    work, seed = output.work(made["training"]), str(changes["seed"])
    token = pickle.loads(pickle.dumps(token))  # as the workers receive it
    token.guard(lambda: work.write_request(made))
    yield
    for step in range(len(find_checkpoints(work.checkpoints, made["training"])), STEPS):
        state = TrainingState(
            training=made["training"],
            step=step + 1,
            shapes={"w": (2, 2)},
            states=("m",),
            gather=lambda name, kind: torch.full((2, 2), float(seed)),
            scalars={},
        )
        write_checkpoint(work.checkpoints, state, keep=STEPS, fence=token)
        yield
    exported = work.of_run("export", token.token[:8])
    token.guard(lambda: exported.mkdir(parents=True))
    newest = find_checkpoints(work.checkpoints, made["training"])[-1]
    for name in ("config.json", "model.safetensors"):
        (exported / name).write_text(f"{newest.weight_rows('w', 0, 1)[0, 0]:g}")
    manifest = {"training": made["training"]}
    publish_model(output, Result(exported=exported, request=made, log=b"", plot="", manifest=manifest), token)


def take_over(files: OutputFiles, former: LeaseToken) -> LeaseToken:
    """Create the next epoch, as a run on another machine does after the lease has expired."""
    data = read_epoch(files, former.epoch)
    assert data is not None
    record = replace(LeaseRecord.from_json(data), epoch=former.epoch + 1, token="second")
    assert files.storage.create(files.lease_file(record.epoch), record.to_json())
    return LeaseToken(files, record.epoch, record.token, LEASE_S)


@settings(max_examples=25, deadline=None)
@given(before=st.integers(0, STEPS + 1), order=st.lists(st.booleans(), max_size=3 * STEPS))
def test_a_training_that_takes_over_ends_with_its_own_model(before: int, order: list[bool]) -> None:
    """The first training acts `before` times; then both act in some order, the second one to its end."""
    with tempfile.TemporaryDirectory() as folder:
        output, files = TrainingOutput(Path(folder)), OutputFiles.at(folder, Storage())
        with suppress(JobError), hold(files, lease_s=LEASE_S) as lease:
            first = training(output, lease.token, **FIRST)
            for _ in range(before):
                next(first)
            second = training(output, take_over(files, lease.token), **SECOND)
            for is_first in order:
                if is_first:
                    with pytest.raises(JobError, match="no longer holds"):
                        next(first)
                    first = training(output, lease.token, **FIRST)  # Ray Train starts its workers again
                else:
                    next(second, None)
            for _ in second:
                pass
        found = output.find_request(IDENTITY | SECOND, overwrite=False)
        assert output.read_manifest(found) == {"training": request(**SECOND)["training"]}
        assert [(output.folder / name).read_text() for name in ("config.json", "model.safetensors")] == ["2", "2"]


@pytest.mark.parametrize("act", [lambda output: output.remove_unstarted(), lambda output: output.remove_work_files()])
def test_a_fenced_run_removes_nothing(act: Callable[[TrainingOutput], None], tmp_path: Path) -> None:
    output, files = TrainingOutput(tmp_path), OutputFiles.at(str(tmp_path), Storage())
    with suppress(JobError), hold(files, lease_s=LEASE_S) as lease:
        take_over(files, lease.token)
        output.work("0" * 32).data.mkdir(parents=True)
        with pytest.raises(JobError, match="no longer holds"):
            lease.token.guard(lambda: act(output))
    assert output.work("0" * 32).data.is_dir()
