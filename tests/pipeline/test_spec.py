"""Specs: identities that finished outputs depend on, help texts that are written once, and error sentences."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import tirazh.pipeline
from tirazh.errors import RequestError
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.settings import Spec, flag_name
from tirazh.pipeline.shared_settings import SHARED_SETTINGS
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec

PATHS: dict[str, Any] = {"input": ("/in",), "output": "out"}
LABELS = {"sport": "спорт", "economics": "экономика"}
SPEC_CLASSES: tuple[type[Spec], ...] = (ClassifySpec, GenerateSpec, FinetuneSpec)


def helps(spec: type[Spec]) -> dict[str, str]:
    return {each.name: each.metadata["help"] for each in fields(spec)}


def test_a_classify_spec_keeps_the_identity_that_existing_outputs_were_written_with() -> None:
    spec = ClassifySpec(
        input=("s3://bucket/news/", "/data/more.parquet"),
        output="out",
        model="/models/xl",
        labels=LABELS,
        examples="/data/few.parquet",
        calibrate="contextual",
        abstain_below=0.25,
        template="Новость: {{ text }}",
        limit=1000,
    )
    assert spec.identity() == {
        "kind": "classify",
        "input": ["s3://bucket/news", "/data/more.parquet"],
        "model": "/models/xl",
        "prefix": "",
        "template": "Новость: {{ text }}",
        "truncate": None,
        "seq_length": None,
        "limit": 1000,
        "dtype": "auto",
        "sparse_mode": None,
        "num_attention_heads": None,
        "fix_sparsity_layout": None,
        "deepspeed_config": None,
        "preset": None,
        "tokenizer": None,
        "text_column": "text",
        "labels": LABELS,
        "examples": "/data/few.parquet",
        "calibrate": "contextual",
        "abstain_below": 0.25,
    }
    assert list(spec.identity())[:4] == ["kind", "input", "model", "prefix"], "plan.json keeps this order"
    assert spec.fingerprint() == "f794a2cfe9edbc8a"


@pytest.mark.parametrize(
    ("spec", "fingerprint"),
    [
        (GenerateSpec(**PATHS, stop=("\n",), samples=2, seed=7, top_p=0.9), "2b0ea8a34c9eb86f"),
        (FinetuneSpec(**PATHS, learning_rate=1e-4, lora_rank=8), "9a644d6414fc6ab8"),
    ],
    ids=["generate", "finetune"],
)
def test_a_spec_keeps_the_fingerprint_that_existing_outputs_were_written_with(spec: Spec, fingerprint: str) -> None:
    assert spec.fingerprint() == fingerprint


def test_a_setting_of_jobs_and_training_takes_its_help_text_from_the_shared_one() -> None:
    own_meaning = {"prompt_column", "labels", "keep"}  # used differently in training
    of_jobs = set(helps(GenerateSpec)) | set(helps(ClassifySpec))
    assert of_jobs & set(helps(FinetuneSpec)) - own_meaning == set(SHARED_SETTINGS)
    for spec in SPEC_CLASSES:
        for name in SHARED_SETTINGS.keys() & helps(spec).keys():
            assert helps(spec)[name].startswith(SHARED_SETTINGS[name]["help"]), f"{spec.__name__}.{name}"


def test_no_help_text_is_repeated_in_the_source() -> None:
    folder = Path(tirazh.pipeline.__file__).parent
    literals: list[str] = []
    for path in (*(folder / "spec").glob("*.py"), folder / "shared_settings.py", folder / "finetune" / "spec.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        literals += [
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) is str
        ]
    repeated = [text for text, count in Counter(literals).items() if count > 1 and len(text.split()) > 3]
    assert repeated == []


def test_no_help_text_shows_a_python_tuple_or_ends_with_a_full_stop() -> None:
    for spec in SPEC_CLASSES:
        for name, text in helps(spec).items():
            assert text == text.strip(), name
            assert not text.endswith("."), name
            assert "('" not in text, name


@pytest.mark.parametrize(
    ("name", "group"),
    [("labels", "result"), ("gold_column", "evaluation"), ("slots", "execution")],
)
def test_a_setting_belongs_to_a_group_of_the_help_text(name: str, group: str) -> None:
    assert {each.name: each.metadata["group"] for each in fields(ClassifySpec)}[name] == group


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("top_p", 1.5, "must be between 0 and 1, not 1.5"),
        ("temperature", -1.0, "must be 0 or more, not -1.0"),
        ("max_new_tokens", 0, "must be at least 1, not 0"),
        ("top_k", -1, "must be 0 (off) or more, not -1"),
        ("samples", 0, "must be at least 1, not 0"),
    ],
)
def test_an_error_names_the_setting_by_its_flag(name: str, value: float, rule: str) -> None:
    with pytest.raises(RequestError) as caught:
        GenerateSpec(**PATHS, **{name: value})
    assert str(caught.value) == f"{flag_name(name)} {rule}"
