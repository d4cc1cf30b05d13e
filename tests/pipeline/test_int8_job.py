"""Whole jobs with `--dtype int8` and the embedded model in this process: answers, manifest, resume, plan, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.pipeline.without_ray import run_without_ray, with_the_model
from tirazh.actors.messages import ReplicaConfig
from tirazh.errors import RequestError
from tirazh.model.cpu_features import may_multiply_bfloat16
from tirazh.pipeline.build import run_job
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.forecast.describe import describe_job
from tirazh.pipeline.output.leases import lease as lease_module
from tirazh.pipeline.spec import ClassifySpec, EmbedSpec, GenerateSpec

TEXTS = [
    "Учёные обнаружили новый вид бабочек в горах Алтая.",
    "Сборная России выиграла матч со счётом два — один, сообщает агентство.",
    "Банк снизил ставку. " * 10,
]
LABELS = {"спорт": "спорт", "экономика": "экономика", "наука": "наука"}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    run_without_ray(monkeypatch, with_the_model)
    monkeypatch.setattr(lease_module, "RACE_WINDOW_S", 0.0)
    pl.DataFrame({"text": TEXTS}).write_parquet(tmp_path / "in.parquet")

    def settings(name: str = "out", **more: Any) -> dict[str, Any]:
        paths: dict[str, Any] = {"input": (str(tmp_path / "in.parquet"),), "output": str(tmp_path / name)}
        return paths | {"threads": 1, "seq_length": 256, "dtype": "int8", "device": "cpu"} | more

    return settings


def rows_of(settings: dict[str, Any]) -> pl.DataFrame:
    return pl.read_parquet(f"{settings['output']}/*.parquet")


def test_embeddings_are_nearly_those_of_float32_and_the_manifest_says_what_int8_means(
    job: Callable[..., dict[str, Any]],
) -> None:
    narrow, wide = job("narrow"), job("wide", dtype="float32")
    manifest = run_job(EmbedSpec(**narrow))
    run_job(EmbedSpec(**wide))
    own, exact = (np.array(rows_of(settings)["embedding"].to_list()) for settings in (narrow, wide))
    lengths = np.linalg.norm(own, axis=1) * np.linalg.norm(exact, axis=1)
    assert ((own * exact).sum(axis=1) / lengths).min() > 0.995
    assert not np.array_equal(own, exact)
    assert manifest["dtype"] == "int8"
    assert "128 inputs with a scale of their own" in manifest["quantization"]
    stored = json.loads((Path(narrow["output"]) / "_tirazh" / "manifest.json").read_text(encoding="utf-8"))
    assert stored["quantization"] == manifest["quantization"]


def test_a_job_is_resumed_in_int8_only(job: Callable[..., dict[str, Any]]) -> None:
    generate = job(prompt_column="text", max_new_tokens=4, temperature=0.0)
    first = run_job(GenerateSpec(**generate))
    completions = rows_of(generate)["completion"].to_list()
    assert run_job(GenerateSpec(**generate))["plan_id"] == first["plan_id"]  # all of it is there
    assert rows_of(generate)["completion"].to_list() == completions
    for dtype in ("float32", "bfloat16"):
        with pytest.raises(RequestError, match="dtype"):
            run_job(GenerateSpec(**generate | {"dtype": dtype}))


def test_rows_do_not_depend_on_slots_or_neighbours(job: Callable[..., dict[str, Any]]) -> None:
    common = {"prompt_column": "text", "max_new_tokens": 6, "temperature": 0.7, "seed": 3}
    one, many = job("one", slots=1, **common), job("many", slots=8, **common)
    for settings in (one, many):
        run_job(GenerateSpec(**settings))
    assert rows_of(one)["completion"].to_list() == rows_of(many)["completion"].to_list()


def test_the_plan_counts_weights_of_one_byte(job: Callable[..., dict[str, Any]]) -> None:
    figures = {
        dtype: describe_job(GenerateSpec(**job(prompt_column="text", max_new_tokens=4, dtype=dtype)))
        for dtype in ("int8", "bfloat16", "float32")
    }
    item = 2 if may_multiply_bfloat16() else 4
    tables = (8192 + 1024) * 256  # embeddings of tokens and positions
    linears = 4 * 12 * 256 * 256 + 8192 * 256  # of four layers, and of the logits
    assert figures["int8"]["rank_weight_bytes"] == pytest.approx(tables * item + linears, rel=0.05)
    same = "bfloat16" if item == 2 else "float32"
    assert figures["int8"]["rank_cache_bytes"] == figures[same]["rank_cache_bytes"]


def test_what_int8_cannot_do_is_refused_in_one_sentence(job: Callable[..., dict[str, Any]]) -> None:
    on_cpus_only = "--dtype int8 runs on CPUs only; add --device cpu, or give another --dtype for GPUs"
    with pytest.raises(RequestError, match=on_cpus_only):
        ClassifySpec(**job(device="cuda"), labels=LABELS)
    with pytest.raises(RequestError, match=on_cpus_only):
        ReplicaConfig(model="embedded", dtype="int8", device="cuda")
    with pytest.raises(RequestError, match="--dtype must be one of auto, float32, bfloat16, float16, not 'int8'"):
        FinetuneSpec(input=("a.parquet",), output="out", dtype="int8")
