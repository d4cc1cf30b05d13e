"""`tirazh.json` is read as untrusted data: what is not labels and a template is refused with one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.task import TASK_FILE, ModelTask, read_task, write_task

LABELS = {"sport": "спорт", "экономика": {"words": "деньги", "aliases": ["банк"]}}


@pytest.mark.parametrize("template", [None, "{{ title }}\nTopic:"])
def test_a_task_is_read_as_it_was_written(template: str | None, tmp_path: Path) -> None:
    task = ModelTask(labels=LABELS, template=template)
    write_task(tmp_path, task)
    assert read_task(tmp_path) == task


def test_a_model_without_the_file_has_no_task(tmp_path: Path) -> None:
    assert read_task(tmp_path) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not readable JSON"),
        ("[]", "must hold a JSON object"),
        ('{"labels": {}}', "another version"),
        ('{"format": 2, "labels": null, "template": null}', "another version"),
        ('{"format": 1, "labels": ["a", "b"]}', "must be an object"),
        ('{"format": 1, "labels": {"a": "b"}, "template": {}}', "must be an object"),
        ('{"format": 1, "labels": null, "template": "%s"}' % ("x" * (2 << 20)), "larger than"),
        ('{"format": 1, "labels": null, "labels": {}}', "twice"),
        ("[" * 100_000, "not readable JSON"),
    ],
)
def test_a_damaged_file_is_refused_by_name(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / TASK_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=words) as raised:
        read_task(tmp_path)
    assert str(tmp_path / TASK_FILE) in str(raised.value)
