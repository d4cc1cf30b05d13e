"""Jobs with `--invariant tensor-parallel` in this process: identity, manifest, plan, other ranks, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.pipeline.without_ray import run_without_ray, with_the_model
from tests.system.tiny_model import TINY, write_tiny_model
from tirazh.errors import RequestError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.forecast.describe import describe_job
from tirazh.pipeline.output.leases import lease as lease_module
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.preview.run import preview_job
from tirazh.pipeline.spec import EmbedSpec

Job = Callable[..., EmbedSpec]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    run_without_ray(monkeypatch, with_the_model)
    monkeypatch.setattr(lease_module, "RACE_WINDOW_S", 0.0)
    pl.DataFrame({"text": ["Банк снизил ставку.", "Сборная выиграла матч."]}).write_parquet(tmp_path / "in.parquet")

    def spec(**more: Any) -> EmbedSpec:
        paths: dict[str, Any] = {"input": (str(tmp_path / "in.parquet"),), "output": str(tmp_path / "out")}
        settings = {"threads": 1, "seq_length": 256, "dtype": "float32", "device": "cpu"}
        return EmbedSpec(**paths | settings | {"invariant": "tensor-parallel"} | more)

    return spec


def rows_of(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(f"{folder}/out/*.parquet")


def test_a_job_is_resumed_with_other_ranks_but_not_without_the_option(job: Job, tmp_path: Path) -> None:
    first = run_job(job())
    assert first["spec"]["invariant"] == "tensor-parallel"
    stored = json.loads((tmp_path / "out" / "_tirazh" / "manifest.json").read_text(encoding="utf-8"))
    assert stored["spec"]["invariant"] == "tensor-parallel"
    for ranks in (2, 4):
        assert run_job(job(tensor_parallel=ranks))["plan_id"] == first["plan_id"]  # all of it is there
    with pytest.raises(RequestError, match="--invariant differs"):
        run_job(job(invariant=None))


def test_a_job_without_the_option_has_the_identity_that_it_had_in_earlier_versions(job: Job) -> None:
    assert "invariant" not in job(invariant=None).identity()
    assert "invariant" not in describe_job(job(invariant=None))
    assert describe_job(job())["invariant"] == job().identity()["invariant"] == "tensor-parallel"


def test_the_preview_has_the_rows_of_the_job_on_any_number_of_ranks(job: Job, tmp_path: Path) -> None:
    run_job(job())
    shown = preview_job(job(tensor_parallel=2), rows=2)
    assert [row["output"][0]["embedding"] for row in shown["rows"]] == rows_of(tmp_path)["embedding"].to_list()
    assert "with --tensor-parallel" not in " ".join(shown["notes"])
    shown = preview_job(job(tensor_parallel=2, invariant=None, output=str(tmp_path / "other")), rows=1)
    assert "with --tensor-parallel the logits differ in their last bits" in " ".join(shown["notes"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"invariant": "replicas"}, "--invariant must be one of tensor-parallel, not 'replicas'"),
        ({"tensor_parallel": 3}, "needs --tensor-parallel 1, 2 or 4, not 3; give one of them, or leave"),
        ({"device": "cuda"}, "runs on CPUs only; add --device cpu, or leave --invariant out for GPUs"),
        ({"dtype": "float16"}, "has no kernels for --dtype float16; give --dtype float32, bfloat16 or int8"),
    ],
    ids=str,
)
def test_a_request_that_cannot_be_kept_is_refused(job: Job, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        job(**settings)


def test_a_model_that_cannot_keep_it_is_refused_when_the_job_is_planned(job: Job, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    odd = write_tiny_model(tmp_path / "odd", config=replace(TINY, hidden_size=96, num_attention_heads=6))
    with pytest.raises(RequestError, match="needs a multiple of 4 attention heads, but the model has 6; leave"):
        plan_job(job(model=odd, tokenizer=None))
    foreign = Path(write_tiny_model(tmp_path / "foreign"))
    (foreign / "model.safetensors").unlink()
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=264, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=256,
        )
    ).save_pretrained(foreign)  # fmt: skip
    with pytest.raises(RequestError, match="is for ruGPT-3 models, and this one is of another family; leave"):
        plan_job(job(model=str(foreign)))
