"""The checks of a cluster before the first row, on one machine; `tests/jobs/cluster/test_preflight.py` has others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tirazh.errors import InputError, RequestError
from tirazh.pipeline.execution.cluster.checks import check_cluster
from tirazh.pipeline.spec import GenerateSpec

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_local")]


def job(folder: Path, **settings: Any) -> GenerateSpec:
    pq.write_table(pa.table({"prompt": ["a"]}), folder / "in.parquet")
    defaults = {"input": (str(folder / "in.parquet"),), "output": str(folder / "a/b/out"), "address": "auto"}
    return GenerateSpec(**(defaults | settings))


def test_a_machine_that_has_everything_is_accepted_and_nothing_is_left(tmp_path: Path) -> None:
    told: list[str] = []
    check_cluster(job(tmp_path), tell=told.append)
    assert told == []
    assert not (tmp_path / "a/b/out").exists()


def test_what_is_in_the_output_already_stays(tmp_path: Path) -> None:
    own = tmp_path / "a/b/out/_tirazh"
    own.mkdir(parents=True)
    check_cluster(job(tmp_path), tell=lambda text: None)
    assert own.is_dir()
    assert not list(own.iterdir())


def test_a_refusal_names_the_machine(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^on machine \S+ \(.*\), where the driver of the job runs: input /no/in"):
        check_cluster(job(tmp_path, input=("/no/in.parquet",)), tell=lambda text: None)
    with pytest.raises(RequestError, match=r"^there is no model /no/model on machine \S+ \("):
        check_cluster(job(tmp_path, model="/no/model"), tell=lambda text: None)
    assert not (tmp_path / "a/b/out").exists()


def test_fewer_replicas_than_asked_for_are_told(tmp_path: Path) -> None:
    told: list[str] = []
    check_cluster(job(tmp_path, replicas="5", tensor_parallel=2), tell=told.append)
    assert told == ["the cluster can hold 3 of 5 replicas now; the others start when it has more resources"]
