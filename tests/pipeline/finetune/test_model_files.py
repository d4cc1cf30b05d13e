"""What a training writes beside its weights: labels and template, and an adapter where it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.model.training.test_adapter import ALL, matrices
from tests.model.training.trained import DENSE, save_checkpoint, trained_weights, write_base
from tirazh.errors import CheckpointError, OutputError
from tirazh.jobs.settings import build_finetune_spec
from tirazh.model.checkpoints.directory import open_checkpoint
from tirazh.model.checkpoints.task import ModelTask, read_task
from tirazh.pipeline.finetune.model_files import check_saved, task_of, write_model_files
from tirazh.pipeline.prompts.source import CLASSIFY_TEMPLATE

LABELS = {"sport": "sport", "money": "money"}
PLAIN: dict[str, Any] = {"lora_rank": 0, "completion_column": "desk", "labels": LABELS, "template": CLASSIFY_TEMPLATE}
LORA = PLAIN | {"lora_rank": ALL.rank, "lora_alpha": ALL.alpha, "lora_targets": list(ALL.targets)}


@pytest.mark.parametrize(
    ("changes", "task"),
    [
        ({}, ModelTask(labels=LABELS, template=None)),
        ({"template": "{{ title }}:"}, ModelTask(labels=LABELS, template="{{ title }}:")),
        ({"template": "{{ text }}", "prompt_column": "q"}, ModelTask(labels=LABELS, template="{{ q }}")),
        ({"labels": None, "template": "{{ q }}"}, ModelTask(labels=None, template="{{ q }}")),
        ({"prompt_column": "my column"}, None),  # no template can name it
        ({"completion_column": None}, None),
    ],
)
def test_the_task_is_what_the_model_was_trained_to_answer(changes: dict[str, Any], task: ModelTask | None) -> None:
    assert task_of(PLAIN | changes) == task


@pytest.mark.parametrize(
    ("save", "has_model", "has_adapter"), [("merged", True, False), ("adapter", False, True), ("both", True, True)]
)
def test_save_says_what_is_written_of_lora(save: Any, has_model: bool, has_adapter: bool, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", DENSE, is_gpt2=True)
    checkpoint = save_checkpoint(tmp_path / "checkpoints", matrices(DENSE, ALL))
    out = tmp_path / "out"
    out.mkdir()
    write_model_files(out, open_checkpoint(str(base)), checkpoint, LORA, save=save)
    assert (out / "config.json").is_file() == (out / "model.safetensors").is_file() == has_model
    assert (out / "adapter" / "adapter_config.json").is_file() == has_adapter
    assert read_task(out) == ModelTask(labels=LABELS, template=None)
    if has_model:
        assert open_checkpoint(str(out)).config == DENSE
    else:
        with pytest.raises(CheckpointError, match="a LoRA adapter without its model"):
            open_checkpoint(str(out))


def test_a_training_of_all_weights_has_no_adapter(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", DENSE)
    checkpoint = save_checkpoint(tmp_path / "checkpoints", trained_weights(DENSE))
    (tmp_path / "out").mkdir()
    write_model_files(tmp_path / "out", open_checkpoint(str(base)), checkpoint, PLAIN, save="merged")
    assert not (tmp_path / "out" / "adapter").exists()


def test_a_finished_training_is_not_said_to_be_saved_otherwise() -> None:
    given: dict[str, Any] = {"input": ["a.parquet"], "output": "out", "model": "m", "lora_rank": 2}
    manifest = {"spec": build_finetune_spec(given).to_dict()}
    check_saved(Path("out"), manifest, build_finetune_spec(given))
    for changes in ({"save": "both"}, {"save_dtype": "float16"}):
        with pytest.raises(OutputError, match="another --output"):
            check_saved(Path("out"), manifest, build_finetune_spec(given | changes))
