"""The parts in flight are limited, and a slow part does not block the others."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tirazh.pipeline import schema
from tirazh.pipeline.execution import graph
from tirazh.pipeline.execution.data_settings import data_settings
from tirazh.pipeline.execution.graph import build_graph, max_parts_in_flight, run_graph
from tirazh.pipeline.input.datasource import PartsDatasource
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.storage.disk import StoredFile, disk_version
from tirazh.pipeline.storage.filesystem import Storage

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_local")]
PARTS, IN_FLIGHT = 60, 3
WRITE_S = 0.3


class FastStep:
    """Replaces `InferStep`: returns at once, and records when it received the part. Part 0 waits for so many others
    that some of them must have been written."""

    def __init__(self, config: Any) -> None:
        self._received = 0

    async def __call__(self, table: pa.Table) -> pa.Table:
        received = time.time()
        self._received += 1
        if table.column(schema.PART)[0].as_py() == 0:
            deadline = time.monotonic() + 60
            while self._received <= 2 * max_parts_in_flight(1, IN_FLIGHT) + 1 and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
        return pa.table({"part": table.column(schema.PART)[:1], "received": [received]})


def write_slowly(table: pa.Table) -> pa.Table:
    time.sleep(WRITE_S)
    return table.append_column("written", pa.array([time.time()]))


@pytest.fixture(scope="module")
def timed(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows that a graph with a slow sink returns about its parts."""
    path = tmp_path_factory.mktemp("in") / "a.parquet"
    pq.write_table(pa.table({"id": range(PARTS)}), path)
    status = path.stat()
    file = StoredFile(str(path), path.name, status.st_size, disk_version(status))
    source = PartsDatasource([Part(i, PARTS, file, i, i + 1) for i in range(PARTS)], Storage())
    settings = data_settings(max_parts_in_flight=max_parts_in_flight(1, IN_FLIGHT))
    with settings, pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "InferStep", FastStep)
        built = build_graph(
            source,
            prompts=lambda table: table,
            infer=None,  # type: ignore[arg-type]
            replicas=(1, 1),
            in_flight=IN_FLIGHT,
            write=write_slowly,
        )
        return list(run_graph(built))


def test_the_number_of_parts_in_flight_is_bounded(timed: list[dict[str, Any]]) -> None:
    in_flight = [sum(other["received"] <= part["received"] < other["written"] for other in timed) for part in timed]
    assert IN_FLIGHT < max(in_flight) <= max_parts_in_flight(1, IN_FLIGHT)
    assert len(timed) == PARTS


def test_other_parts_overtake_a_slow_one(timed: list[dict[str, Any]]) -> None:
    (slow,) = (part for part in timed if part["part"] == 0)
    assert sum(part["written"] < slow["written"] for part in timed) > max_parts_in_flight(1, IN_FLIGHT)
