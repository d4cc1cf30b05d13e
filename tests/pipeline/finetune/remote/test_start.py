"""`--from` names a training in a store: its checkpoint is found there, and fetched where the new training works."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from tests.pipeline.finetune.remote.test_checkpoints import Fence, state
from tests.pipeline.finetune.test_start import MODEL
from tirazh.errors import OutputError
from tirazh.model.training.checkpoint import find_checkpoints, write_checkpoint
from tirazh.pipeline.finetune.identity import training_id
from tirazh.pipeline.finetune.output import TrainingOutput
from tirazh.pipeline.finetune.remote.output import StoredOutput, open_output
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.finetune.start import bring_start, find_start, start_checkpoint
from tirazh.pipeline.finetune.work_folder import WorkFolder
from tirazh.pipeline.storage.filesystem import Storage


@pytest.fixture
def output(tmp_path: Path) -> StoredOutput:
    """A training in a store with checkpoints of steps 5 and 10, which was stopped at step 11."""
    found = open_output(f"memory://first-{uuid4().hex}/run", Storage(), str(tmp_path / "work"))
    assert isinstance(found, StoredOutput)
    request = {"identity": MODEL, "dtype": "float32", "seq_length": 8, "packing": "stream", "total_steps": 20}
    request |= {"training": training_id(request)}
    found.write_request(request)
    training = str(request["training"])
    work = found.work(training)
    for step in (5, 10):
        write_checkpoint(work.checkpoints, replace(state(step), training=training), keep=9)
    entries = [{"step": step, "loss": 1.0} for step in range(1, 11)] + [{"step": 11, "stopped": "the loss is nan"}]
    work.log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    with found.uploading(training, Fence(), run="0" * 8, keeps_best=True):  # type: ignore[arg-type]
        pass
    return found


def spec(text: str) -> FinetuneSpec:
    return FinetuneSpec(input=("a",), output="b", model="/m", from_checkpoint=text)


def test_the_checkpoint_that_did_not_give_the_bad_loss_is_fetched_once(output: StoredOutput, tmp_path: Path) -> None:
    uri = output.files.directory
    start = find_start(spec(uri), TrainingOutput(tmp_path / "out"), MODEL, Storage())
    assert (start.given, start.step, start.first_step) == (uri, 5, 5)
    assert start.folder.startswith(f"{uri}/_tirazh/trainings/")
    assert find_start(spec(f"{uri}@10"), TrainingOutput(tmp_path / "out"), MODEL, Storage()).step == 10
    work = WorkFolder(tmp_path / "new")
    for _ in range(2):
        bring_start(start.to_json(), work, Storage())
    found = start_checkpoint(start.to_json(), work, fresh_optimizer=False)
    assert found is not None
    (fetched,) = find_checkpoints(Path(found.folder).parent, start.training)
    assert (str(fetched.folder), fetched.step) == (found.folder, 5)
    assert not work.log.exists()


def test_a_checkpoint_that_was_removed_from_the_store_is_named(output: StoredOutput, tmp_path: Path) -> None:
    start = find_start(spec(output.files.directory), TrainingOutput(tmp_path / "out"), MODEL, Storage())
    output.files.storage.remove(start.folder, recursive=True)
    with pytest.raises(OutputError, match=f"its checkpoint {start.folder} was removed"):
        bring_start(start.to_json(), WorkFolder(tmp_path / "new"), Storage())


def test_a_store_without_a_training_has_nothing_to_start_from(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no training checkpoint"):
        find_start(spec(f"memory://none-{uuid4().hex}/run"), TrainingOutput(tmp_path / "out"), MODEL, Storage())
