"""A classify job without labels asks what its model was trained to answer, as if labels and template were given."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import pytest

from tests.model.training.trained import DENSE, write_base
from tests.pipeline.without_ray import run_without_ray, with_the_model
from tirazh.errors import CheckpointError, RequestError
from tirazh.jobs.settings import build_spec
from tirazh.model.checkpoints.task import TASK_FILE, ModelTask, write_task
from tirazh.pipeline.build import run_job
from tirazh.pipeline.output.leases import lease as lease_module
from tirazh.pipeline.storage.filesystem import Storage
from tirazh.pipeline.trained_task import compare_task, task_line

TASK = ModelTask(
    labels={"sport": "the sport", "money": {"words": "money", "aliases": ["bank"]}}, template="{{ text }} is:"
)
FLAGS = {"labels": TASK.labels, "template": TASK.template}
Spec = Callable[..., Any]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = write_base(tmp_path / "model", replace(DENSE, max_position_embeddings=256))
    write_task(folder, TASK)
    return folder


@pytest.fixture
def spec(model: Path, tmp_path: Path) -> Spec:
    pl.DataFrame({"text": ["a match", "a bank", "the end"]}).write_parquet(tmp_path / "in.parquet")

    def build(name: str = "out", **settings: Any) -> Any:
        given = {"model": str(model), "input": [str(tmp_path / "in.parquet")], "output": str(tmp_path / name)}
        return build_spec("classify", given | {"threads": 1, "dtype": "float32"} | settings)

    return build


def test_a_job_without_labels_takes_those_of_the_model(spec: Spec) -> None:
    assert spec() == spec(**FLAGS)


def test_rows_and_manifest_are_the_same_with_and_without_flags(
    spec: Spec, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_without_ray(monkeypatch, with_the_model)
    monkeypatch.setattr(lease_module, "RACE_WINDOW_S", 0.0)
    manifests = [run_job(spec(name, **flags)) for name, flags in (("without", {}), ("with", FLAGS))]
    files = [sorted((tmp_path / name).glob("part-*.parquet")) for name in ("without", "with")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    assert len(files[0]) > 0
    used = {"file": str(model / TASK_FILE), "labels": True, "template": True}
    assert [manifest["model_task"] for manifest in manifests] == [used, used]


@pytest.mark.parametrize(
    ("given", "labels", "template"),
    [
        ({"template": "{{ text }}?"}, TASK.labels, "{{ text }}?"),
        ({"labels": "a,b"}, {"a": "a", "b": "b"}, None),
        ({"labels": "a,b", "template": "{{ text }}?"}, {"a": "a", "b": "b"}, "{{ text }}?"),
    ],
)
def test_flags_win(given: dict[str, Any], labels: Any, template: str | None, spec: Spec) -> None:
    found = spec(**given)
    assert (dict(found.labels), found.template) == (labels, template)


def test_questions_leave_the_labels_of_the_model_out(spec: Spec) -> None:
    asked = {"tone": {"labels": ["good", "bad"], "suffix": "tone:"}}
    assert spec(questions=asked).labels is None


def test_one_line_says_what_is_taken_from_the_model(spec: Spec, model: Path) -> None:
    line = task_line(spec())
    assert line is not None
    assert line.startswith("the labels and the template are those that the model was trained with")
    assert str(model / TASK_FILE) in line
    assert task_line(spec(labels="a,b")) is None
    other = compare_task(spec(template="{{ text }}?"))
    assert other is not None
    assert (other["labels"], other["template"]) == (True, False)


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"labels": {"a": 1.5, "b": "b"}}, RequestError, "labels must be strings"),
        ({"labels": {"a": {"wrods": "x"}, "b": "b"}}, RequestError, "has the key 'wrods'"),
        ({"labels": {"a": "x"}}, RequestError, "at least two labels"),
        ({"labels": {"a": "x\ny", "b": "b"}}, RequestError, "line break"),
        ({"labels": [1]}, CheckpointError, "must be an object"),
        ({"labels": None}, RequestError, "--labels is missing"),
    ],
)
def test_what_is_wrong_in_the_file_is_refused(
    values: dict[str, Any], error: type[Exception], words: str, spec: Spec, model: Path
) -> None:
    (model / TASK_FILE).write_text(json.dumps({"format": 1, "template": None} | values))
    with pytest.raises(error, match=words):
        spec()


def test_a_template_of_the_model_is_compiled_in_the_sandbox(spec: Spec, model: Path) -> None:
    from tirazh.pipeline.plan import plan_job

    write_task(model, replace(TASK, template="{{ text.__class__ }}"))
    with pytest.raises(RequestError, match="template"):
        plan_job(spec())


def test_a_model_without_the_file_needs_labels(spec: Spec, model: Path) -> None:
    (model / TASK_FILE).unlink()
    with pytest.raises(RequestError, match="--labels is missing"):
        spec()
    assert compare_task(spec(labels="a,b")) is None


def test_a_model_in_a_store_brings_its_labels_too(
    spec: Spec, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are not fetched for them."""
    monkeypatch.setenv("TIRAZH_CACHE", str(tmp_path / "cache"))
    uri = f"memory://models-{uuid4().hex}/topics"
    for path in model.iterdir():
        Storage().upload(str(path), f"{uri}/{path.name}")
    job = spec(model=uri)
    assert job.labels == spec().labels
    assert job.template == TASK.template
    assert compare_task(job) == {"file": f"{uri}/{TASK_FILE}", "labels": True, "template": True}
    assert list((tmp_path / "cache").rglob(TASK_FILE)) != []
    assert list((tmp_path / "cache").rglob("*.safetensors")) == []


def test_a_model_in_a_store_that_cannot_be_read_needs_labels(spec: Spec) -> None:
    with pytest.raises(RequestError, match="--labels is missing"):
        spec(model=f"memory://nothing-{uuid4().hex}/model")
