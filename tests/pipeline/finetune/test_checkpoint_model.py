"""The checkpoint of a training that was stopped becomes the model that the training would have written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model.training.test_adapter import ALL, matrices
from tests.model.training.trained import DENSE, export_trained, save_checkpoint, trained_weights, write_base
from tirazh.errors import CheckpointError, OutputError, RequestError
from tirazh.jobs.cli import main
from tirazh.model.checkpoints.directory import describe, open_checkpoint
from tirazh.model.checkpoints.task import ModelTask, read_task
from tirazh.pipeline.finetune.checkpoint_model import convert_stopped, find_stopped
from tirazh.pipeline.finetune.identity import training_id
from tirazh.pipeline.finetune.output import TrainingOutput

LABELS = {"sport": "sport", "money": "money"}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base", DENSE, is_gpt2=True)


def stop(output: Path, base: Path, *, steps: tuple[int, ...] = (5,), **identity: Any) -> list[Path]:
    """Write what a stopped training leaves. Returns its checkpoints."""
    values: dict[str, Any] = {
        "identity": {
            "model": str(base),
            "model_fingerprint": describe(str(base)).fingerprint,
            "lora_rank": 0,
            "completion_column": "desk",
            "labels": LABELS,
            "template": "{{ text }}:",
        }
        | identity,
        "dtype": "float32",
        "seq_length": 64,
        "packing": "single",
    }
    values["training"] = training_id(values)
    work = TrainingOutput(output).work(values["training"])
    work.write_request(values)
    is_lora = bool(values["identity"]["lora_rank"])
    weights = [matrices(DENSE, ALL) if is_lora else trained_weights(DENSE, seed=step) for step in steps]
    return [
        save_checkpoint(work.checkpoints, each, step=step, training=values["training"]).folder
        for step, each in zip(steps, weights, strict=True)
    ]


def test_a_checkpoint_becomes_a_model_with_tokenizer_and_labels(base: Path, tmp_path: Path) -> None:
    (checkpoint,) = stop(tmp_path / "out", base)
    stopped = find_stopped(str(checkpoint))
    assert stopped is not None
    summary = convert_stopped(stopped, str(tmp_path / "model"))
    assert (summary.kind, summary.config) == ("gpt2", DENSE)
    assert read_task(tmp_path / "model") == ModelTask(labels=LABELS, template="{{ text }}:")
    expected = export_trained(tmp_path / "expected", base, trained_weights(DENSE, seed=5))
    for path in expected.iterdir():
        assert path.read_bytes() == (tmp_path / "model" / path.name).read_bytes()


def test_the_command_takes_the_newest_checkpoint_of_an_output(base: Path, tmp_path: Path) -> None:
    stop(tmp_path / "out", base, steps=(5, 10))
    assert main(["convert", str(tmp_path / "out"), str(tmp_path / "model"), "--dtype", "float16", "--quiet"]) == 0
    read = open_checkpoint(str(tmp_path / "model"))
    newest = trained_weights(DENSE, seed=10)["model.norm.weight"]
    assert torch.equal(read.read("model.norm.weight"), newest.half())


def test_the_adapter_of_a_checkpoint_is_merged(base: Path, tmp_path: Path) -> None:
    lora = {"lora_rank": ALL.rank, "lora_alpha": ALL.alpha, "lora_targets": list(ALL.targets)}
    (checkpoint,) = stop(tmp_path / "out", base, **lora)
    stopped = find_stopped(str(checkpoint))
    assert stopped is not None
    convert_stopped(stopped, str(tmp_path / "model"))
    expected = export_trained(tmp_path / "expected", base, matrices(DENSE, ALL), lora=ALL)
    assert (expected / "model.safetensors").read_bytes() == (tmp_path / "model" / "model.safetensors").read_bytes()


def test_models_and_other_directories_are_not_checkpoints_of_trainings(base: Path, tmp_path: Path) -> None:
    assert find_stopped(str(base)) is None
    assert find_stopped(str(tmp_path / "missing")) is None


def test_checkpoints_of_several_trainings_are_named(base: Path, tmp_path: Path) -> None:
    places = [*stop(tmp_path / "out", base), *stop(tmp_path / "out", base, seed=2)]
    with pytest.raises(RequestError, match="several trainings") as raised:
        find_stopped(str(tmp_path / "out"))
    assert all(str(place) in str(raised.value) for place in places)


def test_a_checkpoint_away_from_its_training_is_refused(base: Path, tmp_path: Path) -> None:
    (checkpoint,) = stop(tmp_path / "out", base)
    shutil.copytree(checkpoint, tmp_path / "a" / "b" / checkpoint.name)
    with pytest.raises(CheckpointError, match="is missing: it says from which model"):
        find_stopped(str(tmp_path / "a" / "b" / checkpoint.name))
    shutil.copytree(checkpoint, checkpoint.with_name("mine"))
    with pytest.raises(CheckpointError, match="it was renamed"):
        find_stopped(str(checkpoint.with_name("mine")))


@pytest.mark.parametrize(
    "damage", [{"training": "0" * 32}, {"identity": None}, {"identity": {"model": 1}}, {"format": 1}]
)
def test_a_request_that_was_changed_is_refused(damage: dict[str, Any], base: Path, tmp_path: Path) -> None:
    (checkpoint,) = stop(tmp_path / "out", base)
    request = checkpoint.parent.parent / "finetune.json"
    request.write_text(json.dumps(json.loads(request.read_text()) | damage))
    with pytest.raises(CheckpointError, match="is damaged or of another version"):
        find_stopped(str(checkpoint))


@pytest.mark.parametrize("identity", [{"model": "/no/such/model"}, {"model_fingerprint": "0" * 16}, {"sparse_mode": 3}])
def test_another_base_model_is_refused(identity: dict[str, Any], base: Path, tmp_path: Path) -> None:
    (checkpoint,) = stop(tmp_path / "out", base, **identity)
    stopped = find_stopped(str(checkpoint))
    assert stopped is not None
    with pytest.raises(CheckpointError, match=r"no model directory|other weights|sparse"):
        convert_stopped(stopped, str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


def test_a_wrong_request_writes_nothing(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stop(tmp_path / "out", base)
    out, model = str(tmp_path / "out"), str(tmp_path / "model")
    assert main(["convert", out, model, "--sparse-mode", "none"]) == 2
    assert "--sparse-mode cannot be used with a training's checkpoint" in capsys.readouterr().err
    stopped = find_stopped(out)
    assert stopped is not None
    with pytest.raises(RequestError, match="--dtype must be one of"):
        convert_stopped(stopped, model, dtype="int4")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.txt").touch()
    with pytest.raises(OutputError, match="holds other files"):
        convert_stopped(stopped, model)
