"""Estimates of memory and time (an interval) before a job starts, and of tokens from the sizes of decoded texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tirazh.model.checkpoints.directory import describe
from tirazh.model.config import ModelConfig
from tirazh.model.load import EMBEDDED_DIR
from tirazh.pipeline.forecast.describe import describe_job
from tirazh.pipeline.forecast.estimate import MeasuredSpeed, cache_bytes, count_parameters, estimate, slot_bytes
from tirazh.pipeline.forecast.history import LastRun
from tirazh.pipeline.forecast.workload import Workload
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec

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
        figures.append(describe_job(spec))
    assert figures[0]["rank_cache_bytes"] == 2 * figures[1]["rank_cache_bytes"]
    low, high = figures[0]["time_s"]
    assert 0 < low < high


def test_each_order_of_the_examples_counts_its_own_prompts(model_dir: Path, write_input: Callable[..., Path]) -> None:
    examples = write_input("few.parquet", text=["goal", "bank"], label=["a", "b"])
    path = write_input("a.parquet", text=["one", "two"] * 10)
    job: dict[str, Any] = {"input": (str(path),), "output": str(path.parent.parent / "out"), "model": str(model_dir)}
    one, two = (
        describe_job(ClassifySpec(**job, labels={"a": "a", "b": "b"}, examples=str(examples), permutations=count))
        for count in (1, 2)
    )
    assert two["prompt_tokens"] == 2 * one["prompt_tokens"] > 0


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


def workload_of(sequences: int, *, longest: int = 40) -> Workload:
    return Workload(
        sequences=sequences,
        prompt_tokens=20 * sequences,
        own_tokens=20 * sequences,
        completion_tokens=20 * sequences,
        longest=longest,
        source="",
    )


@pytest.fixture
def job(write_input: Callable[..., Path]) -> GenerateSpec:
    path = write_input("a.parquet", prompt=["one"] * 8)
    return GenerateSpec(input=(str(path),), output=str(path.parent.parent / "out"), model=EMBEDDED_DIR)


def test_a_small_job_needs_no_more_cache_than_its_sequences_and_their_lengths(job: GenerateSpec) -> None:
    plan = plan_job(job)
    few, many, long = (
        estimate(plan, job, each)["rank_cache_bytes"]
        for each in (workload_of(8), workload_of(640), workload_of(8, longest=200))
    )
    assert many == 64 / 8 * few  # 64 slots
    assert few < long


@pytest.mark.parametrize("sparse_mode", ["none", "all", "alternating"])
def test_a_slot_takes_the_bytes_by_which_the_engine_admits_sequences(sparse_mode: Any) -> None:
    from tirazh.model.attention.kv_cache import KVCache  # loads torch
    from tirazh.model.engine.network import layer_shapes
    from tirazh.model.gpt import RuGPT3Config, RuGPT3ForCausalLM

    small: Any = {"num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 50}
    config = ModelConfig(**small, sparse_mode=sparse_mode)
    model = RuGPT3ForCausalLM(RuGPT3Config.from_model_config(config))
    weight = next(model.parameters())
    cache = KVCache(layer_shapes(model), num_slots=1, max_length=512, dtype=weight.dtype, device=weight.device)
    for length in (1, 17, 100, 511, 512):
        assert slot_bytes(config, length, 512, weight.element_size()) == cache.bytes_taken(length)


def test_a_measured_speed_gives_a_time_at_most_three_times_as_long_as_short(job: GenerateSpec) -> None:
    plan, work = plan_job(job), workload_of(100_000)
    by_size = estimate(plan, job, work)
    by_last_run = estimate(plan, job, work, last_run=LastRun(completion_tokens=20, tokens_per_s=1_000, seconds=50))
    speed = MeasuredSpeed(prompt_token_s=0.001, new_token_s=0.001, start_s=5)
    by_preview = estimate(plan, job, work, speed=speed)
    for facts in (by_last_run, by_preview):
        low, high = facts["time_s"]
        assert low < 4_000 < high <= 3 * low  # 4,000,000 tokens
    assert by_size["time_s"][1] > 3 * by_size["time_s"][0]
    assert by_size["time_source"] != by_preview["time_source"] != by_last_run["time_source"]
