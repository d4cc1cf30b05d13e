"""Which checkpoint `--from` names, and where a training that starts from it begins."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pipeline.finetune.test_output import IDENTITY, complete, request
from tirazh.errors import OutputError, RequestError
from tirazh.model.training.checkpoint import TrainingState, write_checkpoint
from tirazh.pipeline.finetune.identity import training_id
from tirazh.pipeline.finetune.output import TrainingOutput
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.finetune.start import find_start
from tirazh.pipeline.storage.filesystem import Storage

MODEL = IDENTITY | {"model": "/m", "lora_rank": 0, "lora_alpha": 16.0, "batch_size": 4}


def train(output: TrainingOutput, *steps: int, stopped: int | None = None, time: float = 0, **changes: Any) -> str:
    """Write the request, the log and the checkpoints of a training. Returns its id."""
    made = request(**(MODEL | changes))
    work = output.work(made["training"])
    work.write_request(made)
    write(work.checkpoints, made["training"], *steps)
    lines = [{"step": step, "loss": 1.0} for step in steps]
    lines += [] if stopped is None else [{"step": stopped, "loss": None}, {"step": stopped, "stopped": "nan"}]
    work.log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.utime(work.log, (time, time))
    return str(made["training"])


def write(folder: Path, training: str, *steps: int) -> None:
    for step in steps:
        state = TrainingState(
            training=training,
            step=step,
            shapes={"w": (1,)},
            states=("m",),
            gather=lambda name, kind: torch.zeros(1),
            scalars={},
        )
        write_checkpoint(folder, state, keep=9)


@pytest.fixture
def output(tmp_path: Path) -> TrainingOutput:
    return TrainingOutput(tmp_path / "out")


def find(text: str, *, into: Path | None = None, max_steps: int | None = None, **changes: Any) -> tuple[str, int, int]:
    spec = FinetuneSpec(input=("a",), output="b", model="/m", from_checkpoint=text, max_steps=max_steps)
    found = find_start(spec, TrainingOutput(into or Path("/nowhere")), MODEL | changes, Storage())
    return found.training, found.step, found.first_step


def test_an_output_alone_names_its_newest_checkpoint(output: TrainingOutput) -> None:
    training = train(output, 5, 10)
    assert find(str(output.folder)) == (training, 10, 10)
    assert find(f"{output.folder}@5") == (training, 5, 5)


@pytest.mark.parametrize(("stopped", "step"), [(7, 5), (11, 5), (12, 10)])
def test_after_a_loss_that_is_not_finite_it_names_the_newest_one_that_did_not_give_it(
    stopped: int, step: int, output: TrainingOutput
) -> None:
    """The weights after ten steps gave the loss of step 11."""
    steps = [each for each in (5, 10) if each < stopped]
    training = train(output, *steps, stopped=stopped)
    assert find(str(output.folder)) == (training, step, step)


def test_of_several_trainings_it_names_the_one_that_ran_last(output: TrainingOutput) -> None:
    train(output, 5, 10, time=100)
    last = train(output, 5, time=200, learning_rate=1)
    assert find(str(output.folder)) == (last, 5, 5)


@pytest.mark.parametrize("changes", [{"seed": 9}, {"files": []}, {"batch_size": 8}])
def test_with_other_data_the_steps_begin_at_zero(changes: dict[str, Any], output: TrainingOutput) -> None:
    training = train(output, 5)
    assert find(str(output.folder), **changes) == (training, 5, 0)


def test_a_training_that_has_started_finds_the_checkpoint_that_it_began_with(output: TrainingOutput) -> None:
    """Its own checkpoints are newer, and lie in the same output."""
    first = train(output, 5, stopped=7, time=100)
    values = {"identity": MODEL | {"learning_rate": 2, "from_checkpoint": [first, 5]}, "dtype": "float32"}
    values |= {"seq_length": 8, "packing": "stream"}
    start = {"given": str(output.folder), "training": first, "folder": "/c", "step": 5, "first_step": 5}
    made = values | {"training": training_id(values), "total_steps": 20, "start": start}
    output.work(made["training"]).write_request(made)
    write(output.work(made["training"]).checkpoints, made["training"], 10)
    assert find(str(output.folder), into=output.folder, learning_rate=2) == (first, 5, 5)
    assert find(str(output.folder), into=output.folder, learning_rate=3)[1] == 10


def test_a_kept_checkpoint_of_a_complete_training_is_found(output: TrainingOutput) -> None:
    made = complete(output, **MODEL)
    with pytest.raises(OutputError, match="its training is complete and kept no checkpoint"):
        find(str(output.folder))
    write(output.checkpoints, made["training"], 60)
    assert find(str(output.folder)) == (made["training"], 60, 60)
    with pytest.raises(RequestError, match="--max-steps 60 counts from the beginning of the training"):
        find(str(output.folder), max_steps=60)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("@7", "there is no checkpoint of step 7, but of 5, 10"),
        ("-other", "there is no training checkpoint; give the --output of a training"),
    ],
)
def test_a_checkpoint_that_is_not_there_is_refused(text: str, says: str, output: TrainingOutput) -> None:
    train(output, 5, 10)
    with pytest.raises(OutputError, match=says):
        find(f"{output.folder}{text}")


def test_an_only_checkpoint_that_gave_a_loss_that_is_not_finite_is_not_chosen(output: TrainingOutput) -> None:
    train(output, 5, stopped=6)
    with pytest.raises(OutputError, match="the loss was not finite right after its only checkpoint"):
        find(str(output.folder))
    assert find(f"{output.folder}@5")[1] == 5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_fingerprint": "bb"}, "a training of another model; give its --model, /m"),
        ({"lora_rank": 4}, "a training with --lora-rank 4; give the same"),
    ],
)
def test_a_checkpoint_of_other_weights_is_refused(changes: dict[str, Any], says: str, output: TrainingOutput) -> None:
    train(output, 5, **changes)
    with pytest.raises(RequestError, match=says):
        find(str(output.folder))
