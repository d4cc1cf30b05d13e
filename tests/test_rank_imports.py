"""A rank that runs a ruGPT-3 imports no transformers and no DeepSpeed: they take longer than the rest of its start."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

# The compiler of torch and what it imports are as slow.
SLOW = ("transformers", "deepspeed", "sympy", "torch._dynamo")
LOADED = f"print(*(name for name in {SLOW!r} if name in sys.modules))"


def loaded_by(code: str) -> list[str]:
    """The slow libraries that a fresh interpreter has loaded after running `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\n{LOADED}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("module", ["tirazh.actors.rank", "tirazh.actors.model_engine", "tirazh.actors.replica"])
def test_the_modules_of_a_rank_load_none_of_them(module: str) -> None:
    assert loaded_by(f"import {module}") == []


def test_a_rank_that_answers_with_the_embedded_model_loads_none_of_them() -> None:
    code = """
from tirazh.actors.local_replica import local_replica
from tirazh.actors.messages import ReplicaConfig
from tirazh.model.engine.jobs import EngineJob
from tirazh.model.requests import GenerateRequest, SamplingParams
config = ReplicaConfig(model="embedded", jobs=(EngineJob(),), dtype="float32", device="cpu", slots=4, seq_length=64)
request = GenerateRequest(prompt_token_ids=(5, 6, 7), sampling=SamplingParams(max_new_tokens=3), seed=1)
with local_replica(config) as replica:
    (result,) = replica.run([request])
assert len(result.token_ids) == 3, result
"""
    assert loaded_by(code) == []


def test_a_process_that_counts_the_rows_of_a_run_loads_no_ray_data() -> None:
    code = "import sys\nimport tirazh.pipeline.execution.metrics\nprint('ray.data' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr
