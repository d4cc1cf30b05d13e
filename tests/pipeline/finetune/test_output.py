"""Whose work lies in a training's output directory, and what is removed of it."""

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
    """One in which a training was begun."""
    made = TrainingOutput(tmp_path / "out")
    made.begin({"identity": IDENTITY, "total_steps": 5})
    return made


def test_a_new_directory_holds_nothing(tmp_path: Path) -> None:
    assert TrainingOutput(tmp_path / "new").find(IDENTITY, overwrite=False) is None
    assert not (tmp_path / "new").exists()


def test_the_same_request_is_taken_up_as_it_was_settled(output: TrainingOutput) -> None:
    begun = output.find(IDENTITY, overwrite=False)
    assert begun is not None
    assert begun["total_steps"] == 5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 2}, "--seed is not what that one had"),
        ({"seed": 2, "lora_targets": ()}, "--lora-targets, --seed are not what that one had"),
        ({"model_fingerprint": "bb"}, "the model has other weights now"),
        ({"files": [["a", 2, "v"]]}, "the input has changed since it began"),
    ],
)
def test_another_request_is_refused_unless_it_may_overwrite(
    changes: dict[str, object], says: str, output: TrainingOutput
) -> None:
    with pytest.raises(OutputError, match=says):
        output.find(IDENTITY | changes, overwrite=False)
    assert output.find(IDENTITY | changes, overwrite=True) is None


@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors", "_tirazh/plan.json"])
def test_what_no_training_made_is_never_taken(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(OutputError, match="that no training made"):
        TrainingOutput(tmp_path).find(IDENTITY, overwrite=True)


def test_a_damaged_request_is_named(output: TrainingOutput) -> None:
    output.request.write_text('{"format": 1')
    with pytest.raises(OutputError, match=r"finetune\.json is damaged"):
        output.find(IDENTITY, overwrite=False)


def test_clearing_removes_ours_and_leaves_the_lease_and_what_is_not_ours(output: TrainingOutput) -> None:
    ours = [output.folder / name for name in ("config.json", "model.safetensors", "tokenizer.json")]
    theirs = [output.folder / "notes.txt", output.own / "lease.json"]
    for path in (*ours, *theirs):
        path.touch()
    output.checkpoints.mkdir()
    output.clear()
    assert [path.exists() for path in (*ours, *theirs)] == [False] * 3 + [True] * 2
    assert not output.checkpoints.exists()
    assert not output.request.exists()


def test_a_refused_training_leaves_nothing(tmp_path: Path) -> None:
    output = TrainingOutput(tmp_path / "out")
    output.data("train").mkdir(parents=True)
    output.remove_if_empty()
    assert not output.folder.exists()
