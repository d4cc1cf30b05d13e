"""The id of a training: equal for every spelling of a request, different for anything that changes the weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.system.tiny_model import write_tiny_model
from tirazh.pipeline.finetune.identity import find_differences, training_id
from tirazh.pipeline.finetune.plan import plan_finetune
from tirazh.pipeline.finetune.spec import FinetuneSpec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and a directory with one input file."""
    folder = tmp_path_factory.mktemp("identity")
    write_tiny_model(folder / "model")
    (folder / "news").mkdir()
    texts = ["новость", "погода"]
    pq.write_table(pa.table({"text": texts, "label": ["sport", "culture"]}), folder / "news/a.parquet")
    return folder


def identity(folder: Path, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"input": (str(folder / "news"),), "model": str(folder / "model")}
    return plan_finetune(FinetuneSpec(output=str(folder / "out"), **settings | changes)).identity()


@pytest.mark.parametrize(
    "spelling",
    [
        {"input": ("news",)},
        {"input": ("./news/",)},
        {"model": "model/"},
        {"model": "./model"},
        {"packing": "stream"},
        {"seq_length": 2048},
        {"tokenizer": None},
    ],
)
def test_another_spelling_is_the_same_training(
    spelling: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    if "seq_length" in spelling:
        spelling = {"seq_length": identity(folder)["seq_length"]}
    assert find_differences(identity(folder), identity(folder, **spelling)) == ""


def test_the_default_template_spelled_out_is_the_same_training(folder: Path) -> None:
    pairs = {"completion_column": "label", "labels": {"sport": "спорт", "culture": "культура"}}
    spelled = pairs | {"template": "{{ text }}\nТема:", "truncate": "right"}
    assert identity(folder, **pairs) == identity(folder, **spelled)


def test_a_path_relative_to_another_directory_is_another_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink(folder / "news", tmp_path / "news")
    assert find_differences(identity(folder), identity(folder, input=("news",))) == "--input differs"


def test_the_id_depends_on_the_request_and_not_on_what_follows_from_it() -> None:
    request: dict[str, Any] = {"identity": {"seed": 1}, "dtype": "float32", "seq_length": 8, "packing": "stream"}
    same = [request | {"total_steps": 5, "rows": 9}, request | {"format": 7, "training": "x"}]
    other = [
        request | {"identity": {"seed": 2}},
        request | {"dtype": "bfloat16"},
        request | {"seq_length": 9},
        request | {"packing": "whole"},
    ]
    assert {training_id(each) for each in same} == {training_id(request)}
    assert len({training_id(each) for each in (request, *other)}) == 5


def test_a_training_of_another_version_of_the_steps_is_another_training(folder: Path) -> None:
    """Earlier ones have no version: their documents saw each other, and their rates were others."""
    now = identity(folder)
    before = {name: value for name, value in now.items() if name != "steps_version"}
    assert find_differences(before, now) == "it is of another version of tirazh, whose steps differ"
