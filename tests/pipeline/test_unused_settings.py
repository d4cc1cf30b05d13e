"""A setting that has no effect in a job is named in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec, JobSpec
from tirazh.pipeline.unused_settings import unused_settings

Write = Callable[..., Path]


@pytest.fixture
def make_spec(write_input: Write, tmp_path: Path, model_dir: Path) -> Callable[..., JobSpec]:
    write_input("a.parquet", prompt=["x y z"] * 4, text=["a"] * 4)
    paths: dict[str, Any] = {"input": (str(tmp_path / "in"),), "output": str(tmp_path / "out"), "model": str(model_dir)}
    generate = GenerateSpec(**paths, max_new_tokens=8)
    classify = ClassifySpec(**paths, labels={"a": "sport", "b": "economics"})
    return lambda kind, **settings: replace(generate if kind == "generate" else classify, **settings)


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        ("classify", {"endpoint_url": "http://127.0.0.1:9000"}, "--endpoint-url has no effect: input and output are"),
        ("classify", {"replicas": "1:4"}, "--replicas 1:4: more replicas than parts have no effect; the job has one"),
        ("classify", {"abstain_below": 0.5}, "--abstain-below 0.5 has no effect: the most likely of 2 labels always"),
        ("classify", {"top": 2}, "--top 2 keeps all 2 labels, the most likely first"),
        ("classify", {"priors": "balanced"}, "--priors balanced has no effect: without a fitted calibration"),
        ("classify", {"fix_sparsity_layout": 1}, "--fix-sparsity-layout has no effect: the model has no layer with"),
        ("generate", {"temperature": 0.0, "seed": 7}, "--seed has no effect with --temperature 0"),
        ("generate", {"temperature": 0.0, "min_p": 0.1}, "--min-p has no effect with --temperature 0"),
        ("generate", {"temperature": 0.0, "top_k": 5, "top_p": 0.9}, "--top-k, --top-p have no effect with"),
        (
            "generate",
            {"temperature": 0.0, "samples": 3},
            "--samples 3 with --temperature 0 gives the same completion 3",
        ),
        ("generate", {"template": "{{ text }}", "prompt_column": "x"}, "--prompt-column has no effect: the template"),
    ],
)
def test_a_setting_without_effect_is_named(
    make_spec: Callable[..., JobSpec], kind: str, settings: dict[str, Any], sentence: str
) -> None:
    spec = make_spec(kind, **settings)
    (found,) = unused_settings(spec, plan_job(spec))
    assert found.startswith(sentence)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("classify", {}),
        ("classify", {"abstain_below": 0.6, "top": 1, "priors": {"a": 0.75, "b": 0.25}}),
        ("generate", {"seed": 7, "top_k": 5, "samples": 3}),
        ("generate", {"temperature": 0.0}),
        ("generate", {"template": "{{ text }} {{ prompt }}", "prompt_column": "text"}),
    ],
)
def test_settings_with_effect_are_not_named(
    make_spec: Callable[..., JobSpec], kind: str, settings: dict[str, Any]
) -> None:
    spec = make_spec(kind, **settings)
    assert unused_settings(spec, plan_job(spec)) == []


def test_a_temperature_column_gives_the_sampling_settings_their_effect(
    make_spec: Callable[..., JobSpec], write_input: Write
) -> None:
    write_input("a.parquet", prompt=["x y z"] * 4, temperature=[0.0, 1.0, 0.5, 0.0])
    spec = make_spec("generate", temperature=0.0, seed=7)
    assert unused_settings(spec, plan_job(spec)) == []
