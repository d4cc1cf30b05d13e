"""Small whole jobs without Ray and without a model, on an output of each kind of storage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from tests.pipeline.without_ray import run_without_ray
from tirazh.pipeline.output.leases import lease as lease_module
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.storage.clock import CLOCK
from tirazh.pipeline.storage.filesystem import Storage

MakeSpec = Callable[..., ClassifySpec]


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `run_job` make parts in this process; the first label always wins."""
    run_without_ray(monkeypatch)
    monkeypatch.setattr(lease_module, "RACE_WINDOW_S", 0.0)
    monkeypatch.setattr(CLOCK, "sleep", lambda seconds: None)  # no late writes of a killed run have to be waited for


@pytest.fixture
def make_spec(write_input: Callable[..., Path], tmp_path: Path, model_dir: Path) -> MakeSpec:
    """Make specs of one job of 30 rows in three parts, with two gold columns."""
    write_input(
        "a.parquet",
        text=[f"text {n}" for n in range(30)],
        topic=["sport"] * 30,
        desk=["sport", "economics"] * 15,
    )
    spec = ClassifySpec(
        input=(str(tmp_path / "in"),),
        output=str(tmp_path / "out"),
        model=str(model_dir),
        labels={label: label for label in ("sport", "economics")},
        dtype="float32",
        part_rows=10,
    )
    return lambda **changes: replace(spec, **changes)


@pytest.fixture(params=["disk", "store"])
def job_output(request: pytest.FixtureRequest, tmp_path: Path) -> OutputFiles:
    """An empty output on a disk and in an object store."""
    where = str(tmp_path / "out") if request.param == "disk" else f"memory://job-{uuid4().hex}/out"
    return OutputFiles(Storage(), where)
