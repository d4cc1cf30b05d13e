"""An error in a step of the graph reaches the user as one sentence, without the text that Ray adds."""

from __future__ import annotations

import pyarrow as pa
import pytest
import ray

from tirazh.errors import JobError, StorageError
from tirazh.pipeline.execution.data_settings import data_settings
from tirazh.pipeline.execution.metrics_client import start_metrics
from tirazh.pipeline.execution.ray_failures import explained

pytestmark = pytest.mark.ray


def raise_tirazh_error(table: pa.Table) -> pa.Table:
    raise StorageError("/data/out: the disk is full")


def raise_memory_error(table: pa.Table) -> pa.Table:
    raise MemoryError("not enough memory for this part")


def test_a_tirazh_error_reaches_the_user_unchanged(ray_local: None) -> None:
    with pytest.raises(StorageError) as raised, data_settings(), explained(start_metrics()):
        ray.data.range(1).map_batches(raise_tirazh_error, batch_format="pyarrow").materialize()
    assert str(raised.value) == "/data/out: the disk is full"


def test_another_exception_becomes_a_job_error_with_its_message(ray_local: None) -> None:
    with pytest.raises(JobError) as raised, data_settings(), explained(start_metrics()):
        ray.data.range(1).map_batches(raise_memory_error, batch_format="pyarrow").materialize()
    assert str(raised.value) == "a step of the job failed: MemoryError: not enough memory for this part"
