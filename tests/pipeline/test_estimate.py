"""Estimates of memory (exact), time (an interval) and tokens (of decoded texts) before a job starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tirazh.model.checkpoints.directory import describe
from tirazh.model.config import ModelConfig
from tirazh.model.load import EMBEDDED_DIR
from tirazh.pipeline.estimate import cache_bytes, count_parameters, estimate
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.spec import GenerateSpec

XL: dict[str, Any] = {"num_layers": 24, "hidden_size": 2048, "num_attention_heads": 16, "vocab_size": 50264}


def test_the_number_of_parameters_equals_that_of_the_weight_file() -> None:
    model = describe(EMBEDDED_DIR)
    assert model.config is not None
    assert count_parameters(model.config) * 2 == model.weight_bytes  # two bytes per parameter


def test_a_sparse_layer_keeps_368_tokens_of_2048() -> None:
    sparse, dense = ModelConfig(**XL, sparse_mode="all"), ModelConfig(**XL)
    assert cache_bytes(dense, 2048, 2) == 2 * 2 * 2048 * 2048 * 24
    assert cache_bytes(sparse, 2048, 2) * 2048 == cache_bytes(dense, 2048, 2) * 368
    assert cache_bytes(sparse, 100, 2) == cache_bytes(dense, 100, 2)


def test_gpus_have_more_slots_by_default() -> None:
    job: dict[str, Any] = {"input": ("a.parquet",), "output": "out"}
    assert [GenerateSpec(**job).slots_on(device) for device in ("cpu", "cuda")] == [64, 256]
    assert [GenerateSpec(**job, slots=7).slots_on(device) for device in ("cpu", "cuda")] == [7, 7]


@pytest.mark.parametrize("change", [{"tensor_parallel": 2}, {"slots": 32}], ids=str)
def test_ranks_divide_the_cache_and_slots_multiply_it(
    change: dict[str, Any], model_dir: Path, write_input: Callable[..., Path]
) -> None:
    path = write_input("a.parquet", prompt=["one", "two"] * 50)
    job: dict[str, Any] = {"input": (str(path),), "output": str(path.parent.parent / "out"), "model": str(model_dir)}
    figures = []
    for settings in ({"slots": 64}, {"slots": 64} | change):
        spec = GenerateSpec(**(job | settings))
        figures.append(estimate(plan_job(spec), spec))
    assert figures[0]["rank_cache_bytes"] == 2 * figures[1]["rank_cache_bytes"]
    low, high = figures[0]["time_s"]
    assert 0 < low < high


def test_texts_that_a_dictionary_stores_once_count_by_their_length_in_every_row(
    model_dir: Path, write_input: Callable[..., Path]
) -> None:
    text = "Однажды утром редактор открыл газету. " * 20
    path = write_input("a.parquet", prompt=[text] * 400)
    plan = plan_job(
        GenerateSpec(input=(str(path),), output=str(path.parent.parent / "out"), model=str(model_dir), max_new_tokens=1)
    )
    assert plan.estimated_tokens == pytest.approx(400 * (len(text.encode()) / 4 + 2), rel=0.05)
    assert plan.parts[0].row_bytes == pytest.approx(len(text.encode()), rel=0.05)
