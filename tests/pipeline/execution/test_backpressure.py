"""A driver that dies loses few parts: replicas do not run ahead of the sink, and a slow part holds nobody else up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tirazh.pipeline import schema
from tirazh.pipeline.execution import graph
from tirazh.pipeline.execution.graph import build_graph, max_parts_in_flight, run_graph
from tirazh.pipeline.execution.ray_session import data_settings
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.read import PartsDatasource
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.filesystem import Storage

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_local")]
PARTS, IN_FLIGHT = 60, 3
WRITE_S = 0.3


class Quick:
    """Takes the place of `InferStep`: answers at once, but for part 0; notes when it was given the part."""

    def __init__(self, plan: Any) -> None: ...

    async def __call__(self, table: pa.Table) -> pa.Table:
        given = time.time()
        if table.column(schema.PART)[0].as_py() == 0:
            await asyncio.sleep(4.0)
        return pa.table({"part": table.column(schema.PART)[:1], "given": [given]})


def write_slowly(table: pa.Table) -> pa.Table:
    time.sleep(WRITE_S)
    return table.append_column("written", pa.array([time.time()]))


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, write_input: Callable[..., Path]) -> list[dict[str, Any]]:
    """What a graph with a slow sink says of each of its parts."""
    path = write_input("a.parquet", id=range(PARTS))
    status = path.stat()
    file = StoredFile(str(path), path.name, status.st_size, str(status.st_mtime_ns))
    source = PartsDatasource([Part(i, PARTS, file, i, i + 1) for i in range(PARTS)], Storage())
    monkeypatch.setattr(graph, "InferStep", Quick)
    with data_settings(max_parts_in_flight=max_parts_in_flight(1, IN_FLIGHT)):
        built = build_graph(
            source,
            prompts=lambda table: table,
            infer=None,  # type: ignore[arg-type]
            replicas=(1, 1),
            in_flight=IN_FLIGHT,
            write=write_slowly,
        )
        return list(run_graph(built))


def test_parts_under_way_are_bounded(timed: list[dict[str, Any]]) -> None:
    under_way = [sum(other["given"] <= part["given"] < other["written"] for other in timed) for part in timed]
    assert IN_FLIGHT < max(under_way) <= max_parts_in_flight(1, IN_FLIGHT)
    assert len(timed) == PARTS


def test_parts_go_past_a_slow_one(timed: list[dict[str, Any]]) -> None:
    (slow,) = (part for part in timed if part["part"] == 0)
    assert sum(part["written"] < slow["written"] for part in timed) > max_parts_in_flight(1, IN_FLIGHT)
