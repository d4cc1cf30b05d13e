"""The output directory of a training run: which requests may use it, and which files are removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tirazh.errors import OutputError
from tirazh.pipeline.finetune.identity import training_id
from tirazh.pipeline.finetune.output import TrainingOutput
from tirazh.pipeline.finetune.work_folder import FORMAT, write_json
from tirazh.pipeline.output.leases.lease import hold
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.storage.filesystem import Storage

IDENTITY = {
    "kind": "finetune",
    "seed": 1,
    "lora_targets": ("q_proj",),
    "model_fingerprint": "aa",
    "files": [["a", 1, "v"]],
}


def request(**changes: object) -> dict[str, Any]:
    """The stored request of a training; `changes` are those of its identity."""
    values = {"identity": IDENTITY | changes, "dtype": "float32", "seq_length": 8, "packing": "stream"}
    return values | {"training": training_id(values), "total_steps": 5}


def start(output: TrainingOutput, **changes: object) -> dict[str, Any]:
    """Write the request of a training that has not written its model."""
    made = request(**changes)
    output.work(made["training"]).write_request(made)
    return made


def complete(output: TrainingOutput, **changes: object) -> dict[str, Any]:
    """Write what a completed training leaves, with an empty model."""
    made = request(**changes)
    write_json(output.request, {"format": FORMAT} | made)
    write_json(output.manifest, {"training": made["training"]})
    output.config.touch()
    return made


@pytest.fixture
def output(tmp_path: Path) -> TrainingOutput:
    return TrainingOutput(tmp_path / "out")


def test_a_new_directory_has_no_request_and_is_not_created(output: TrainingOutput) -> None:
    assert output.find_request(IDENTITY, overwrite=False) is None
    assert not output.folder.exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_same_request_is_read_back(overwrite: bool, output: TrainingOutput) -> None:
    start(output)
    found = output.find_request(IDENTITY, overwrite=overwrite)
    assert found is not None
    assert found["total_steps"] == 5
    assert output.read_manifest(found) is None


@pytest.mark.parametrize("state", [start, complete])
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 2}, "--seed differs"),
        ({"seed": 2, "lora_targets": ()}, "--lora-targets, --seed differ"),
        ({"model_fingerprint": "bb"}, "the model has other weights now"),
        ({"files": [["a", 2, "v"]]}, "the input files have changed since it started"),
        ({"files": [["a", 2, "v"]], "model_fingerprint": "bb"}, "the input files have changed since it started"),
    ],
)
def test_another_request_is_refused_without_overwrite(
    state: Any, changes: dict[str, object], says: str, output: TrainingOutput
) -> None:
    state(output)
    with pytest.raises(OutputError, match=says):
        output.find_request(IDENTITY | changes, overwrite=False)
    assert output.find_request(IDENTITY | changes, overwrite=True) is None


def test_overwrite_resumes_its_own_training_beside_the_old_model(output: TrainingOutput) -> None:
    complete(output)
    new = start(output, seed=2)
    identity = IDENTITY | {"seed": 2}
    with pytest.raises(OutputError, match="--seed differs; give --overwrite to replace it"):
        output.find_request(identity, overwrite=False)
    found = output.find_request(identity, overwrite=True)
    assert found is not None
    assert found["training"] == new["training"]
    assert output.read_manifest(found) is None, "the manifest is the old model's"


def test_the_old_request_is_complete_while_another_one_replaces_it(output: TrainingOutput) -> None:
    old = complete(output)
    start(output, seed=2)
    found = output.find_request(IDENTITY, overwrite=False)
    assert found is not None
    assert output.read_manifest(found) == {"training": old["training"]}


def test_a_model_without_its_last_file_is_not_complete(output: TrainingOutput) -> None:
    """A run that was killed while it replaced the old model, after the new manifest was written."""
    complete(output)
    start(output)
    output.config.unlink()
    found = output.find_request(IDENTITY, overwrite=False)
    assert found is not None
    assert output.read_manifest(found) is None


@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors", "_tirazh/plan.json"])
def test_a_directory_with_other_files_is_refused_even_with_overwrite(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(OutputError, match="holds files of other origin"):
        TrainingOutput(tmp_path).find_request(IDENTITY, overwrite=True)


@pytest.mark.parametrize("text", ['{"format": 1', '{"format": 1}', "[]"])
def test_a_damaged_request_file_is_refused_by_name(text: str, output: TrainingOutput) -> None:
    path = output.work(start(output)["training"]).request
    path.write_text(text)
    with pytest.raises(OutputError, match=rf"{path} is damaged"):
        output.find_request(IDENTITY, overwrite=False)


def test_a_request_whose_values_were_changed_is_refused(output: TrainingOutput) -> None:
    path = output.work(start(output)["training"]).request
    path.write_text(path.read_text().replace('"float32"', '"bfloat16"'))
    with pytest.raises(OutputError, match="is damaged"):
        output.find_request(IDENTITY, overwrite=False)


def test_a_refused_training_run_leaves_no_directory(output: TrainingOutput) -> None:
    with hold(OutputFiles.at(str(output.folder), Storage()), lease_s=60):
        output.work("0" * 32).data.mkdir(parents=True)
        output.remove_unstarted()
    output.remove_if_empty()
    assert not output.folder.exists()


def test_a_refused_training_run_does_not_remove_the_lease_of_another_run(output: TrainingOutput) -> None:
    with hold(OutputFiles.at(str(output.folder), Storage()), lease_s=60) as lease:
        output.remove_if_empty()
        lease.confirm()


def test_a_refused_training_run_removes_nothing_of_a_started_one(output: TrainingOutput) -> None:
    made = start(output)
    output.work("0" * 32).data.mkdir(parents=True)
    output.remove_unstarted()
    output.remove_if_empty()
    assert [path.name for path in output.trainings.iterdir()] == [made["training"][:8]]
