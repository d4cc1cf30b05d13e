"""The steps of a job share the replicas of one model. On a real Ray."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.pipeline.steps.starts_engine import NAME
from tirazh.jobs.job_files.steps_file import build_steps_spec
from tirazh.pipeline.steps.run import run_steps
from tirazh.pipeline.steps.verify import verify_output

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_local")]


@pytest.mark.parametrize(
    ("replicas", "starts"), [("2", 2), pytest.param("1:2", None, marks=pytest.mark.slow)], ids=["fixed", "varying"]
)
def test_a_model_is_loaded_once_for_all_steps(
    replicas: str, starts: int | None, tmp_path: Path, model_dir: Path, write_input: Callable[..., Path]
) -> None:
    write_input("topics.parquet", id=range(12), topic=[f"тема {n}" for n in range(12)])
    model = shutil.copytree(model_dir, tmp_path / "model")
    values: dict[str, Any] = {
        "input": str(tmp_path / "in"),
        "output": str(tmp_path / "out"),
        "model": str(model),
        "dtype": "float32",
        "replicas": replicas,
        "part_rows": 3,
        "max_new_tokens": 9,
        "steps": [
            {"name": "title", "kind": "generate", "template": "{{ topic }}: спорт"},
            {"name": "kind", "kind": "classify", "text_column": "title_completion", "labels": {"a": "да", "b": "нет"}},
            {"name": "fit", "kind": "score", "text_column": "title_completion"},
        ],
    }
    manifest = run_steps(build_steps_spec(values), engine="module:tests.pipeline.steps.starts_engine")
    rows = pl.read_parquet(f"{tmp_path}/out/*.parquet")
    assert rows["error"].is_null().all()
    assert rows["kind_label"].is_in(["a", "b"]).all()
    loads = (model / NAME).read_text().splitlines()
    assert len(loads) == len(set(loads))
    if starts is not None:
        assert len(loads) == starts
    else:
        assert len(loads) >= 3, "replicas whose number varies are freed at the end of a step"
    assert manifest["prompt_tokens"] == sum(step["prompt_tokens"] for step in manifest["steps"])
    assert verify_output(str(tmp_path / "out")).problems == ()
