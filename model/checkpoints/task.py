"""`tirazh.json` in a model directory: the labels and the prompt template that a model was trained with.

`finetune` writes it, and `classify` without labels uses it. It comes with a model, which anyone may have
made: it is read as untrusted data, and its template is compiled like any other, in a sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.files import read_json

TASK_FILE = "tirazh.json"
_FORMAT = 1
_MAX_LABELS = 10_000
_MAX_CHARACTERS = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelTask:
    """What a model was trained to answer.

    `labels` maps names to words, or to a mapping of words, aliases and description, as the setting
    `labels` does; None for a model that was trained on other completions. `template` is None for the
    default one.
    """

    labels: Mapping[str, Any] | None
    template: str | None


def write_task(folder: Path, task: ModelTask) -> None:
    """Write `tirazh.json` to a model directory."""
    values = {"format": _FORMAT, "labels": task.labels and dict(task.labels), "template": task.template}
    (folder / TASK_FILE).write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def read_task(folder: Path) -> ModelTask | None:
    """Read `tirazh.json` of a model directory; None when there is none.

    Raises CheckpointError for a file that is damaged, of another version, or far too large.
    """
    path = folder / TASK_FILE
    if not path.is_file():
        return None
    values = read_json(path)
    if values.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is of another version of tirazh; give --labels and --template, or remove it")
    labels, template = values.get("labels"), values.get("template")
    if not isinstance(labels, dict | None) or not isinstance(template, str | None):
        raise CheckpointError(f"{path}: labels must be an object and template a text; correct it, or remove it")
    if len(labels or ()) > _MAX_LABELS or path.stat().st_size > _MAX_CHARACTERS:
        raise CheckpointError(
            f"{path} is larger than labels and a template are ({_MAX_LABELS:,} labels and {_MAX_CHARACTERS >> 20} MiB "
            "at most); remove it"
        )
    return ModelTask(labels=labels, template=template)
