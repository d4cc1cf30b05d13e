"""An output in a store: it says of itself what an output on a disk says, and the disk beside it has no say."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest

from tests.pipeline.finetune.remote.test_checkpoints import Fence, state
from tests.pipeline.finetune.test_output import IDENTITY, request
from tirazh.errors import JobError, OutputError, StorageError
from tirazh.model.training.checkpoint import find_checkpoints, write_checkpoint
from tirazh.pipeline.finetune.output import TrainingOutput
from tirazh.pipeline.finetune.publish import Result
from tirazh.pipeline.finetune.remote.checkpoints import StoredCheckpoints
from tirazh.pipeline.finetune.remote.mirror import CheckpointMirror, Mirrored
from tirazh.pipeline.finetune.remote.output import StoredOutput, open_output, working_directory
from tirazh.pipeline.finetune.remote.publish import publish_stored
from tirazh.pipeline.finetune.saved_steps import newest_saved_step
from tirazh.pipeline.finetune.work_folder import WorkFolder
from tirazh.pipeline.storage.filesystem import Storage

T = TypeVar("T")


@pytest.fixture
def output(tmp_path: Path) -> StoredOutput:
    found = open_output(f"memory://out-{uuid4().hex}/run", Storage(), str(tmp_path / "work"))
    assert isinstance(found, StoredOutput)
    return found


def export(output: StoredOutput, *, seed: int = 1, **files: str) -> Result:
    made = request(seed=seed)
    exported = output.work(made["training"]).of_run("export", "r")
    (exported / "adapter").mkdir(parents=True, exist_ok=True)
    for name, text in {"config.json": "{}", "model.safetensors": "w", **files}.items():
        (exported / name).write_text(text)
    manifest = {"training": made["training"]}
    return Result(exported=exported, request=made, log=b"", plot="<svg/>", manifest=manifest)


def names(output: StoredOutput) -> set[str]:
    return {file.uri.removeprefix(f"{output.files.directory}/") for file in output.files.storage._find(output.uri())}


def test_an_output_on_a_disk_works_where_it_is_and_one_in_a_store_below_the_given_directory(tmp_path: Path) -> None:
    assert isinstance(open_output(str(tmp_path), Storage(), None), TrainingOutput)
    assert working_directory("/data/out", None) == Path("/data/out")
    own = working_directory("s3://night/run", str(tmp_path))
    assert own.parent == tmp_path
    assert own != working_directory("s3://night/run-2", str(tmp_path))
    assert working_directory("s3://night/run", None).parent == Path("~/.cache/tirazh/trainings").expanduser()


def test_a_request_is_found_on_any_machine(output: StoredOutput, tmp_path: Path) -> None:
    assert output.find_request(IDENTITY, overwrite=False) is None
    output.write_request(request())
    elsewhere = open_output(output.files.directory, Storage(), str(tmp_path / "other"))
    assert elsewhere.find_request(IDENTITY, overwrite=False) == output.requests()[0]
    with pytest.raises(OutputError, match=rf"{output.shown} holds another training run: --seed differs"):
        elsewhere.find_request(IDENTITY | {"seed": 2}, overwrite=False)


def test_other_files_and_damaged_requests_are_refused_by_their_address(output: StoredOutput) -> None:
    output.files.storage.write(output.uri("data.csv"), b"1")
    with pytest.raises(OutputError, match=rf"{output.shown} holds files of other origin \(data\.csv\)"):
        output.find_request(IDENTITY, overwrite=False)
    output.files.storage.write(output.uri("_tirazh", "finetune.json"), b"{")
    with pytest.raises(OutputError, match=rf"{output.shown}/_tirazh/finetune\.json is damaged"):
        output.find_request(IDENTITY, overwrite=False)


def test_what_the_store_has_no_more_is_removed_from_the_disk(output: StoredOutput) -> None:
    """Whoever removes an output in the store wants to begin anew, not to go on from this machine's checkpoints."""
    kept, gone = request(), request(seed=2)
    output.write_request(kept)
    for each in (kept, gone):
        output.work(each["training"]).data.mkdir(parents=True)
    output.remove_unstarted()
    assert [path.name for path in output.trainings.iterdir()] == [kept["training"][:8]]


def test_a_model_takes_the_place_of_another_one(output: StoredOutput) -> None:
    publish_stored(
        output, export(output, **{"tirazh.json": "1", "adapter/adapter_config.json": "{}"}), Fence(), run="r"
    )
    assert output.read_manifest(output.find_request(IDENTITY, overwrite=False)) is not None
    assert not output.folder.exists()
    output.files.storage.write(output.uri("notes.txt"), b"mine")
    publish_stored(output, export(output, seed=2), Fence(), run="r")
    own = {f"_tirazh/{name}" for name in ("finetune.json", "losses.jsonl", "losses.svg", "manifest.json")}
    assert names(output) == {"config.json", "model.safetensors", "notes.txt"} | own


@pytest.mark.parametrize("changes", range(17))
def test_a_run_stopped_after_any_change_is_completed_by_the_next_one(changes: int, output: StoredOutput) -> None:
    publish_stored(output, export(output), Fence(), run="r")
    output.write_request(request(seed=2))
    fence = Fence(changes)
    try:
        publish_stored(output, export(output, seed=2), fence, run="r")
    except JobError:
        assert fence.left == 0
    is_new = [request["identity"]["seed"] == 2 for request in output.requests()]
    assert any(is_new), "the training is known until it is complete"
    found = output.find_request(IDENTITY | {"seed": 2}, overwrite=True)
    if output.read_manifest(found) is None:
        publish_stored(output, export(output, seed=2), Fence(), run="s")
        assert not any(name.startswith("_tirazh/trainings") for name in names(output))
    assert output.read_manifest(output.find_request(IDENTITY | {"seed": 2}, overwrite=False)) is not None


class Refusing(Storage):
    """A store that refuses writes."""

    def write(self, uri: str, data: bytes) -> None:
        raise StorageError(f"{uri}: the storage refused to write")


def mirrored(output: StoredOutput, storage: Storage) -> tuple[WorkFolder, Mirrored]:
    made: dict[str, Any] = {"training": "5f3c9a01" * 4}
    work = output.work(made["training"])
    root = output.stored(made["training"]).root
    stored = StoredCheckpoints(storage, root, made["training"])
    noted: Callable[[int], None] = lambda step: None  # noqa: E731
    return work, Mirrored(
        work=work, stored=stored, folder=output.uri("x"), fence=Fence(), run="0" * 8, keeps_best=False, note=noted
    )


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_checkpoints_are_uploaded_while_the_training_runs_and_older_ones_removed(output: StoredOutput) -> None:
    work, what = mirrored(output, Storage())
    with CheckpointMirror(what, work.of_run("stop", "r")):
        for step in (1, 2, 3):
            write_checkpoint(work.checkpoints, state(step), keep=2)
            wait_until(lambda step=step: [each.step for each in what.stored.find()][-1:] == [step])  # type: ignore[misc]
        write_checkpoint(work.checkpoints, state(4), keep=2)
        write_checkpoint(work.checkpoints, state(5), keep=2)
    assert [each.step for each in what.stored.find()] == [4, 5], "what is left is uploaded at the end"
    assert [each.step for each in find_checkpoints(work.checkpoints, what.stored.training)] == [4, 5]


def test_a_store_that_refuses_ends_the_training_with_the_checkpoint_on_the_disk(output: StoredOutput) -> None:
    work, what = mirrored(output, Refusing())
    stop = work.of_run("stop", "r")

    def train() -> None:
        with CheckpointMirror(what, stop):
            write_checkpoint(work.checkpoints, state(1), keep=2)
            wait_until(stop.exists)

    with pytest.raises(JobError, match=r"cannot be uploaded: .*refused to write.*checkpoint of step 1 is in /"):
        train()
    assert what.stored.find() == []
    assert len(find_checkpoints(work.checkpoints, what.stored.training)) == 1


def test_the_newest_step_is_what_the_process_has_uploaded(output: StoredOutput) -> None:
    training = "5f3c9a01" * 4
    assert newest_saved_step(output.files.directory) == 0
    write_checkpoint(output.work(training).checkpoints, state(7), keep=2)
    with output.uploading(training, Fence(), run="0" * 8, keeps_best=False):  # type: ignore[arg-type]
        pass
    assert newest_saved_step(output.files.directory) == 7
