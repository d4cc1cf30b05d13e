"""`tirazh plan` with a price and with a probe."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tirazh.errors import RequestError
from tirazh.jobs.planning import plan_facts
from tirazh.jobs.settings import build_spec
from tirazh.pipeline.spec import JobSpec


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    pq.write_table(pa.table({"prompt": [f"Вчера {number}" for number in range(40)]}), tmp_path / "in.parquet")
    values = {"input": tmp_path / "in.parquet", "output": tmp_path / "out", "max_new_tokens": 24}
    return build_spec("generate", values)


@pytest.mark.parametrize("price", [-1.0, math.inf, math.nan])
def test_a_price_that_is_none_is_refused(spec: JobSpec, price: float) -> None:
    with pytest.raises(RequestError, match="--price-per-hour must be a price of at least 0"):
        plan_facts(spec, price_per_hour=price)


def test_a_plan_starts_nothing_and_says_that_its_time_is_not_measured(spec: JobSpec) -> None:
    facts = plan_facts(spec, price_per_hour=2.0)
    assert facts["time_source"] == "the size of the model, not a measured speed"
    assert facts["cost"][0] < facts["cost"][1]
    assert facts["completion_tokens"] == 40 * 24


@pytest.mark.slow
def test_a_probe_measures_the_speed_and_the_length_of_completions(spec: JobSpec) -> None:
    facts = plan_facts(spec, probe=True, price_per_hour=2.0)
    low, high = facts["time_s"]
    assert high / low <= 3
    assert facts["time_source"] == "the speed measured on this machine"
    assert "completions as in this preview" in facts["tokens_source"]
    assert facts["cost"] == [pytest.approx(seconds / 1800, abs=1e-4) for seconds in (low, high)]
