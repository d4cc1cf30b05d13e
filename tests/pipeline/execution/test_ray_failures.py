"""What is left of an error on its way from a step of the graph to the user: its own sentence, and nothing of Ray's."""

from __future__ import annotations

import pyarrow as pa
import pytest
import ray

from tirazh.errors import JobError, StorageError
from tirazh.pipeline.execution.metrics_client import start_metrics
from tirazh.pipeline.execution.ray_failures import explained
from tirazh.pipeline.execution.ray_session import data_settings

pytestmark = pytest.mark.ray


def raise_ours(table: pa.Table) -> pa.Table:
    raise StorageError("/data/out: the disk is full")


def raise_another(table: pa.Table) -> pa.Table:
    raise MemoryError("no room for this part")


def test_our_own_error_arrives_as_it_was_raised(ray_local: None) -> None:
    with pytest.raises(StorageError) as raised, data_settings(), explained(start_metrics()):
        ray.data.range(1).map_batches(raise_ours, batch_format="pyarrow").materialize()
    assert str(raised.value) == "/data/out: the disk is full"


def test_another_error_is_told_by_its_own_words(ray_local: None) -> None:
    with pytest.raises(JobError) as raised, data_settings(), explained(start_metrics()):
        ray.data.range(1).map_batches(raise_another, batch_format="pyarrow").materialize()
    assert str(raised.value) == "a step of the job failed: MemoryError: no room for this part"
