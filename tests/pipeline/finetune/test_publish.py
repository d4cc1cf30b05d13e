"""A new model replaces the old one: readers see the old one, none, or the new one, wherever the run is stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from tests.pipeline.finetune.test_output import IDENTITY, complete, request, start
from tirazh.errors import JobError
from tirazh.pipeline.finetune.output import TrainingOutput
from tirazh.pipeline.finetune.publish import Result, publish_model

T = TypeVar("T")
OLD = {"config.json": "old", "model.safetensors": "old", "tokenizer.json": "old"}
NEW = {
    "config.json": "new",
    "model-00001-of-00002.safetensors": "new",
    "model-00002-of-00002.safetensors": "new",
    "model.safetensors.index.json": "new",
    "tokenizer.json": "new",
}
NEW_IDENTITY = IDENTITY | {"seed": 2}


class Fence:
    """A fence that is lost after a number of changes, and calls `look` after each."""

    def __init__(self, changes: int, look: Callable[[], None]) -> None:
        self.left = changes
        self._look = look

    def guard(self, action: Callable[[], T], *, undo: Callable[[], None] | None = None) -> T:
        if self.left <= 0:
            raise JobError("another run has taken over")
        self.left -= 1
        done = action()
        self._look()
        return done


@pytest.fixture
def output(tmp_path: Path) -> TrainingOutput:
    """A completed training, and another one whose checkpoint of the last step is written."""
    output = TrainingOutput(tmp_path)
    complete(output)
    start(output, seed=2)
    for name, text in OLD.items():
        (tmp_path / name).write_text(text)
    return output


def export(output: TrainingOutput) -> Result:
    new = request(seed=2)
    exported = output.work(new["training"]).of_run("export", "r")
    exported.mkdir(parents=True, exist_ok=True)
    for name, text in NEW.items():
        (exported / name).write_text(text)
    manifest = {"training": new["training"]}
    return Result(exported=exported, request=new, log=b"", plot="<svg/>", manifest=manifest)


def model(output: TrainingOutput) -> dict[str, str]:
    """The model's files; without `config.json` it is none, as any loader would say."""
    if not output.config.is_file():
        return {}
    return {path.name: path.read_text() for path in output.folder.iterdir() if path.is_file()}


def test_readers_see_the_old_model_or_none_or_the_new_one(output: TrainingOutput) -> None:
    seen = [model(output)]
    publish_model(output, export(output), Fence(99, lambda: seen.append(model(output))))
    assert [each for index, each in enumerate(seen) if index == 0 or each != seen[index - 1]] == [OLD, {}, NEW]


def test_a_published_training_is_complete_and_its_work_files_are_removed(output: TrainingOutput) -> None:
    publish_model(output, export(output), Fence(99, lambda: None))
    found = output.find_request(NEW_IDENTITY, overwrite=False)
    assert output.read_manifest(found) == {"training": request(seed=2)["training"]}
    assert not output.trainings.exists()


@pytest.mark.parametrize("changes", range(15))
def test_a_run_stopped_after_any_change_is_completed_by_the_next_one(changes: int, output: TrainingOutput) -> None:
    """Killed, or fenced: what it has not done before, it does not do after."""
    fence = Fence(changes, lambda: None)
    try:
        publish_model(output, export(output), fence)
    except JobError:
        assert fence.left == 0
    assert model(output) in (OLD, {}, NEW)
    found = output.find_request(NEW_IDENTITY, overwrite=True)
    assert found is not None
    if output.read_manifest(found) is None:
        publish_model(output, export(output), Fence(99, lambda: None))
    assert model(output) == NEW
    assert output.find_request(NEW_IDENTITY, overwrite=False) is not None


def test_a_new_model_takes_the_place_of_an_old_one_with_all_that_came_with_it(output: TrainingOutput) -> None:
    """Labels, card and adapter of the old model would be false beside the new one; other files are kept."""
    for name in ("tirazh.json", "README.md", "special_tokens_map.json", "notes.txt"):
        (output.folder / name).write_text("old")
    adapter = output.folder / "adapter"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).write_text("old")
    publish_model(output, export(output), Fence(99, lambda: None))
    assert model(output) == NEW | {"notes.txt": "old"}
    assert list(adapter.iterdir()) == []


def test_an_adapter_alone_is_a_complete_output(output: TrainingOutput) -> None:
    result = export(output)
    for path in result.exported.iterdir():
        path.unlink()
    (result.exported / "adapter").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (result.exported / "adapter" / name).write_text("new")
    seen: list[bool] = []
    publish_model(output, result, Fence(99, lambda: seen.append(output.is_exported)))
    assert model(output) == {}
    assert not (output.folder / "model.safetensors").exists()
    assert (output.folder / "adapter" / "adapter_config.json").read_text() == "new"
    found = output.find_request(NEW_IDENTITY, overwrite=False)
    assert output.read_manifest(found) == {"training": request(seed=2)["training"]}
