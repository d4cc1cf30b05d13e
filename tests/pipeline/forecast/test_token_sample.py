"""The tokens of a plan agree with what a run counts, for templates, dictionary columns and many samples."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from tirazh.actors.local_replica import local_replica
from tirazh.actors.messages import ReplicaConfig
from tirazh.model.requests import EngineCounters
from tirazh.pipeline import schema
from tirazh.pipeline.execution.infer import InferConfig, make_requests
from tirazh.pipeline.forecast.describe import describe_job
from tirazh.pipeline.forecast.token_sample import is_too_long, measure_tokens
from tirazh.pipeline.input.read import read_part
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.prompt_setup import set_up_prompts
from tirazh.pipeline.prompts.encode import PromptStep
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec

WORDS = "банк поднял ставку команда выиграла матч новости экономики и спорта the news of today".split()
SHORT, LONG = "Новость: {{ text }}\n\nТема:", "Экономика и спорт. " * 75 + "{{ text }}"


def texts(count: int, *, longest: int = 60, distinct: int | None = None) -> list[str]:
    draw = random.Random(3)
    made = [" ".join(draw.choices(WORDS, k=draw.randint(1, longest))) for _ in range(distinct or count)]
    return made if distinct is None else draw.choices(made, k=count)


def counters_of(spec: GenerateSpec) -> EngineCounters:
    """What a run counts: all prompts through the engine `echo`, which answers with as many tokens as the prompt has."""
    plan = plan_job(spec)
    prompts = set_up_prompts(spec, plan)
    replica = ReplicaConfig(model=spec.model, jobs=(prompts.engine_job,), engine="echo")
    config = InferConfig(
        replica=replica,
        sampling=prompts.config.sampling,
        samples=spec.samples,
        overrides=plan.overrides,
        metrics=None,
    )
    with local_replica(replica) as engine:
        for part in plan.parts:
            table = PromptStep(prompts.config)(read_part(part, plan.job.storage, plan.schema))
            engine.run(make_requests(table.filter(table.column(schema.ROW_ERROR).is_null()), config))
        return engine.counters


@pytest.fixture(scope="module")
def model(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of the other tests with 2,048 positions; its weights are not read."""
    folder = tmp_path_factory.mktemp("long") / "model"
    shutil.copytree(model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2_048}))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_positions.weight"] = np.zeros((2_048, config["hidden_size"]), np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def spec(model: Path, tmp_path: Path) -> GenerateSpec:
    return GenerateSpec(
        input=(str(tmp_path / "in"),),
        output=str(tmp_path / "out"),
        model=str(model),
        prompt_column="text",
        max_new_tokens=1,
        seq_length=256,
    )


WORKLOADS: Mapping[str, Mapping[str, Any]] = {
    "short template": {"template": SHORT},
    "template of 1,200 tokens": {"template": LONG, "seq_length": 2_048},
    "dictionary columns": {"distinct": 20},
    "50 samples": {"samples": 50, "template": SHORT},
}


@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_tokens_of_a_plan_are_within_five_percent_of_those_that_a_run_counts(
    workload: str, spec: GenerateSpec, write_input: Callable[..., Path]
) -> None:
    settings = dict(WORKLOADS[workload])
    rows = 3_000 if workload in ("short template", "dictionary columns") else 1_200
    write_input("a.parquet", text=texts(rows, longest=20, distinct=settings.pop("distinct", None)), row_group_size=500)
    job = replace(spec, **settings)
    planned, counted = describe_job(job), counters_of(job)
    assert planned["sampled_rows"] < rows
    assert planned["prompt_tokens"] == pytest.approx(counted.prompt_tokens, rel=0.05)
    assert planned["completion_tokens"] == pytest.approx(counted.completion_tokens, rel=0.05)
    assert planned["estimated_tokens"] == pytest.approx(counted.prompt_tokens + counted.completion_tokens, rel=0.05)


def test_the_tokens_of_a_crossing_of_varied_lists_are_within_five_percent(spec: GenerateSpec) -> None:
    lists = {"topic": texts(40, longest=30), "style": texts(10, longest=8)}
    job = replace(spec, input=(), vary=lists, per_cell=10, template="Тема: {{ topic }}\n{{ style }}\nТекст:")
    planned, counted = describe_job(job), counters_of(job)
    assert planned["sampled_rows"] < planned["rows"] == 4_000
    assert planned["prompt_tokens"] == pytest.approx(counted.prompt_tokens, rel=0.05)
    assert planned["estimated_tokens"] == pytest.approx(counted.prompt_tokens + counted.completion_tokens, rel=0.05)


def test_tokens_of_the_shared_prefix_are_told_apart(spec: GenerateSpec, write_input: Callable[..., Path]) -> None:
    write_input("a.parquet", text=["x"] * 40)
    job = replace(spec, template="Экономика и спорт. " * 5 + "{{ text }}")
    plan = plan_job(job)
    prompts = set_up_prompts(job, plan)
    sample = measure_tokens(plan, prompts)
    assert sample.shared_tokens == len(prompts.engine_job.prefix_token_ids) > 0
    assert sample.longest_own == sample.prompt_tokens - sample.shared_tokens


def test_every_place_of_the_input_counts_the_same(spec: GenerateSpec, write_input: Callable[..., Path]) -> None:
    """The second half has wide rows, of which few are read."""
    write_input("a.parquet", text=["x"] * 5_000 + ["x y z " * 8] * 5_000, row_group_size=2_500)
    sample = measure_tokens(plan_job(spec), set_up_prompts(spec, plan_job(spec)))
    one, many = (
        len(ids)
        for ids in PromptStep(set_up_prompts(spec, plan_job(spec)).config)(
            pa.table({"text": ["x", "x y z " * 8], schema.REPETITION: pa.array([0, 0], pa.int32())})
        )
        .column(schema.PROMPT_IDS)
        .to_pylist()
    )
    assert sample.prompt_tokens == pytest.approx((one + many) / 2, rel=0.01)


@pytest.mark.parametrize("truncate", ["right", "left", "error"])
def test_a_plan_says_how_many_rows_are_cut_or_refused_for_their_length(
    truncate: Any, spec: GenerateSpec, write_input: Callable[..., Path]
) -> None:
    write_input("a.parquet", text=["short"] * 75 + ["слишком длинный текст " * 80] * 25)
    found = describe_job(replace(spec, truncate=truncate, max_new_tokens=16))
    assert (found["cut_share"], found["error_share"]) == ((0, 0.25) if truncate == "error" else (0.25, 0))
    (note,) = [note for note in found["notes"] if "25.0%" in note]
    assert ("will have an error, 25.0% because the prompt is too long" in note) == (truncate == "error")


def test_other_errors_are_not_counted_as_too_long(spec: GenerateSpec, write_input: Callable[..., Path]) -> None:
    write_input("a.parquet", text=pa.array(["short"] * 30 + [None] * 10, pa.string()))
    plan = plan_job(spec)
    sample = measure_tokens(plan, set_up_prompts(spec, plan))
    assert (sample.failed, sample.too_long, sample.error) == (0.25, 0, "column 'text' is null")


@pytest.mark.parametrize("text", ["x y " * 300, "x" * 256 * 200])
def test_both_refusals_of_a_long_prompt_are_recognised(
    text: str, spec: GenerateSpec, write_input: Callable[..., Path]
) -> None:
    write_input("a.parquet", text=[text])
    plan = plan_job(spec)
    error = measure_tokens(plan, set_up_prompts(spec, plan)).error
    assert error is not None
    assert is_too_long(error)


def test_a_text_of_many_megabytes_is_measured_in_bounded_time(
    spec: GenerateSpec, write_input: Callable[..., Path]
) -> None:
    write_input("a.parquet", text=["x y z " * 1_000_000] * 3)
    found = describe_job(replace(spec, truncate="right"))
    assert (found["cut_share"], found["mean_prompt_tokens"]) == (1, 255)


def test_the_cuts_of_the_parts_do_not_depend_on_the_sample(
    spec: GenerateSpec, write_input: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_input("a.parquet", text=texts(2_000))
    before = plan_job(spec).id
    monkeypatch.setattr("tirazh.pipeline.input.spread.PLACES", 3)
    describe_job(spec)
    assert plan_job(spec).id == before


def test_classify_has_prompts_and_no_completions(model_dir: Path, write_input: Callable[..., Path]) -> None:
    path = write_input("a.parquet", text=texts(200, longest=20))
    labels = {"sport": "спорт", "economics": "экономика"}
    job = ClassifySpec(input=(str(path),), output=str(path.parent.parent / "out"), model=str(model_dir), labels=labels)
    found = describe_job(job)
    plan = plan_job(job)
    prompts = PromptStep(set_up_prompts(job, plan).config)
    tables = [prompts(read_part(part, plan.job.storage, plan.schema)) for part in plan.parts]
    counted = sum(len(ids) for table in tables for ids in table.column(schema.PROMPT_IDS).to_pylist())
    assert (found["prompt_tokens"], found["completion_tokens"]) == (counted, 0)
    assert found["tokens_source"] == "prompts measured on 200 of 200 rows"


def test_the_sample_reads_only_the_columns_of_the_prompt(spec: GenerateSpec, write_input: Callable[..., Path]) -> None:
    path = write_input("a.parquet", text=texts(100), blob=[b"x" * 1_000] * 100)
    assert pq.read_schema(path).names == ["text", "blob"]
    assert describe_job(spec)["sampled_rows"] == 100
