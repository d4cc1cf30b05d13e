"""The output directory of a training run: which requests may use it, and which files are removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tirazh.errors import OutputError
from tirazh.pipeline.finetune.output import TrainingOutput

IDENTITY = {
    "kind": "finetune",
    "seed": 1,
    "lora_targets": ("q_proj",),
    "model_fingerprint": "aa",
    "files": [["a", 1, "v"]],
}


@pytest.fixture
def output(tmp_path: Path) -> TrainingOutput:
    """An output directory in which a training run has started."""
    made = TrainingOutput(tmp_path / "out")
    made.write_request({"identity": IDENTITY, "total_steps": 5})
    return made


def test_a_new_directory_has_no_request_and_is_not_created(tmp_path: Path) -> None:
    assert TrainingOutput(tmp_path / "new").find_request(IDENTITY, overwrite=False) is None
    assert not (tmp_path / "new").exists()


def test_the_same_request_is_read_back(output: TrainingOutput) -> None:
    request = output.find_request(IDENTITY, overwrite=False)
    assert request is not None
    assert request["total_steps"] == 5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 2}, "--seed differs"),
        ({"seed": 2, "lora_targets": ()}, "--lora-targets, --seed differ"),
        ({"model_fingerprint": "bb"}, "the model has other weights now"),
        ({"files": [["a", 2, "v"]]}, "the input files have changed since it started"),
    ],
)
def test_another_request_is_refused_without_overwrite(
    changes: dict[str, object], says: str, output: TrainingOutput
) -> None:
    with pytest.raises(OutputError, match=says):
        output.find_request(IDENTITY | changes, overwrite=False)
    assert output.find_request(IDENTITY | changes, overwrite=True) is None


@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors", "_tirazh/plan.json"])
def test_a_directory_with_other_files_is_refused_even_with_overwrite(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(OutputError, match="holds files of other origin"):
        TrainingOutput(tmp_path).find_request(IDENTITY, overwrite=True)


def test_a_damaged_request_file_is_refused_by_name(output: TrainingOutput) -> None:
    output.request.write_text('{"format": 1')
    with pytest.raises(OutputError, match=r"finetune\.json is damaged"):
        output.find_request(IDENTITY, overwrite=False)


def test_clear_removes_training_files_but_not_the_lease_or_other_files(output: TrainingOutput) -> None:
    ours = [output.folder / name for name in ("config.json", "model.safetensors", "tokenizer.json")]
    theirs = [output.folder / "notes.txt", output.own / "leases/00000001.json"]
    for path in (*ours, *theirs):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    output.checkpoints.mkdir()
    output.clear()
    assert [path.exists() for path in (*ours, *theirs)] == [False] * 3 + [True] * 2
    assert not output.checkpoints.exists()
    assert not output.request.exists()


def test_a_refused_training_run_leaves_no_directory(tmp_path: Path) -> None:
    output = TrainingOutput(tmp_path / "out")
    output.data("train").mkdir(parents=True)
    output.remove_if_empty()
    assert not output.folder.exists()
