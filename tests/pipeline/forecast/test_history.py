"""A forecast follows from earlier runs of the same output and of outputs beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tirazh.pipeline.forecast.describe import describe_job
from tirazh.pipeline.forecast.history import find_last_run
from tirazh.pipeline.output.names import MANIFEST
from tirazh.pipeline.output.seal import to_sealed_json
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.spec import GenerateSpec


@pytest.fixture
def spec(model_dir: Path, write_input: Callable[..., Path]) -> GenerateSpec:
    path = write_input("a.parquet", prompt=["one", "two"] * 50)
    output = path.parent.parent / "labelled/2026-11-24"
    return GenerateSpec(input=(str(path),), output=str(output), model=str(model_dir), max_new_tokens=40)


def finished(spec: GenerateSpec, name: str, **facts: Any) -> None:
    """Write the manifest of a finished night."""
    plan = plan_job(spec)
    manifest = {
        **{"rows": 100, "errors": 0, "prompt_tokens": 1_000, "completion_tokens": 1_000, "seconds": 30.0},
        **{"tokens_per_s": 2_000 / 30, "start_s": 10.0, "model_fingerprint": plan.model_fingerprint},
        **{"forecast": {"wall_s": 45.0}, "spec": json.loads(json.dumps(spec.to_dict()))},
    } | facts
    file = Path(spec.output).parent / name / "_tirazh" / MANIFEST
    file.parent.mkdir(parents=True)
    file.write_bytes(to_sealed_json(manifest))


def test_the_nights_beside_an_output_give_its_time_and_the_length_of_completions(spec: GenerateSpec) -> None:
    for name in ("2026-11-22", "2026-11-23"):
        finished(spec, name)
    facts = describe_job(spec)
    assert facts["mean_completion_tokens"] == 10.0
    assert "2 runs in outputs beside this one, such as 2026-11-23" in facts["tokens_source"]
    low, high = facts["time_s"]
    assert high / low <= 3
    assert low < 15 + 10 + facts["estimated_tokens"] / 100 < high  # 2,000 tokens in the 20 s with a replica


def test_the_outputs_own_run_comes_before_those_beside_it(spec: GenerateSpec) -> None:
    finished(spec, "2026-11-23")
    finished(spec, "2026-11-24", completion_tokens=3_000)
    run = find_last_run(plan_job(spec), spec)
    assert run is not None
    assert (run.completion_tokens, run.source, run.before_s) == (30.0, "the last run of this output", 15.0)


@pytest.mark.parametrize("change", [{"samples": 2}, {"max_new_tokens": 50}, {"slots": 7}], ids=str)
def test_runs_with_other_settings_say_nothing(spec: GenerateSpec, change: dict[str, Any]) -> None:
    finished(spec, "2026-11-23")
    other = replace(spec, **change)
    assert find_last_run(plan_job(other), other) is None
    assert find_last_run(plan_job(spec), replace(spec, max_error_rate=0.5)) is not None


def test_a_directory_beside_the_output_that_holds_no_job_is_passed_over(spec: GenerateSpec) -> None:
    finished(spec, "2026-11-23")
    damaged = Path(spec.output).parent / "2026-11-22/_tirazh"
    damaged.mkdir(parents=True)
    (damaged / MANIFEST).write_text("{")
    (Path(spec.output).parent / "notes").mkdir()
    run = find_last_run(plan_job(spec), spec)
    assert run is not None
    assert run.source == "the run in 2026-11-23, beside this output"


def test_the_cost_is_the_time_of_all_replicas(spec: GenerateSpec) -> None:
    finished(spec, "2026-11-23")
    one = describe_job(spec, price_per_hour=36.0)
    assert one["cost"] == [pytest.approx(seconds / 100) for seconds in one["time_s"]]
    assert "cost" not in describe_job(spec)
