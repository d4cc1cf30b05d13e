"""Ray Data keeps parts whole: one test for each behaviour that `execution/graph.py` relies on, to
check upgrades.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from tirazh.pipeline import schema
from tirazh.pipeline.execution import graph
from tirazh.pipeline.execution.data_settings import data_settings
from tirazh.pipeline.execution.graph import build_graph, choose_in_flight, run_graph
from tirazh.pipeline.execution.run_resources import StepCpus
from tirazh.pipeline.input.datasource import PartsDatasource
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.storage.disk import StoredFile, disk_version
from tirazh.pipeline.storage.filesystem import Storage

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_local")]
SLOW_PART = 0


class FakeStep:
    """Replaces `InferStep`: part 0 takes `slow_s` seconds, the others none; records its process id."""

    def __init__(self, slow_s: float) -> None:
        self.slow_s = slow_s

    async def __call__(self, table: pa.Table) -> pa.Table:
        part = table.column(schema.PART)[0].as_py()
        await asyncio.sleep(self.slow_s if part == SLOW_PART else 0.0)
        return table.append_column("infer_pid", pa.array([os.getpid()] * table.num_rows))


def record_prompts(table: pa.Table) -> pa.Table:
    return table.append_column("prompts_pid", pa.array([os.getpid()] * table.num_rows))


def record_write(table: pa.Table) -> pa.Table:
    """Returns one row per call, so that calls can be counted."""
    parts = set(table.column(schema.PART).to_pylist())
    return pa.table(
        {
            "parts": [sorted(parts)],
            "rows": [table.num_rows],
            "ids": [table.column("id").to_pylist()],
            "prompts_pid": [table.column("prompts_pid")[0].as_py()],
            "infer_pid": [table.column("infer_pid")[0].as_py()],
        }
    )


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[Part]], list[dict[str, Any]]]]:
    monkeypatch.setattr(graph, "InferStep", FakeStep)

    def run_parts(parts: list[Part], *, steps: StepCpus | None = None, slow_s: float = 0.0) -> list[dict[str, Any]]:
        source = PartsDatasource(parts, Storage())
        built = build_graph(
            source,
            prompts=record_prompts,
            infer=slow_s,  # type: ignore[arg-type]
            replicas=(1, 1),
            in_flight=3,
            write=record_write,
            steps=steps or StepCpus(),
        )
        return list(run_graph(built))

    with data_settings():
        yield run_parts


def cut(path: Path, rows: int, number: int) -> list[Part]:
    status = path.stat()
    file = StoredFile(str(path), path.name, status.st_size, disk_version(status))
    return [Part(i, number, file, rows * i // number, rows * (i + 1) // number) for i in range(number)]


def test_a_part_stays_one_block_with_its_rows_in_order(
    run: Callable[..., list[dict[str, Any]]], write_input: Callable[..., Path]
) -> None:
    """Ray Data merges small blocks; 40 parts of 5 rows are far below all of its limits."""
    parts = cut(write_input("a.parquet", id=range(200), row_group_size=30), 200, 40)
    written = sorted(run(parts), key=lambda call: call["parts"])
    assert [call["parts"] for call in written] == [[part.index] for part in parts]
    assert [call["ids"] for call in written] == [list(range(part.start, part.stop)) for part in parts]


@pytest.mark.parametrize("num_cpus", [1, 0])
def test_the_actor_pool_does_not_read_files(
    run: Callable[..., list[dict[str, Any]]], write_input: Callable[..., Path], num_cpus: int
) -> None:
    """A read task that is fused with the actor pool would run in the process of the actor."""
    written = run(cut(write_input("a.parquet", id=range(20)), 20, 4), steps=StepCpus(num_cpus=num_cpus))
    assert len({call["infer_pid"] for call in written}) == 1
    assert not {call["infer_pid"] for call in written} & {call["prompts_pid"] for call in written}


def test_a_part_is_written_as_soon_as_its_call_returns(
    run: Callable[..., list[dict[str, Any]]], write_input: Callable[..., Path]
) -> None:
    """Part 0 takes seconds; other parts in flight on the same replica do not wait for it."""
    written = run(cut(write_input("a.parquet", id=range(60)), 60, 12), slow_s=4.0)
    assert written[-1]["parts"] == [SLOW_PART]


def test_a_block_above_the_default_limit_is_not_split(
    run: Callable[..., list[dict[str, Any]]], write_input: Callable[..., Path]
) -> None:
    """By default Ray Data splits blocks of more than 128 MiB."""
    rows = 160
    path = write_input("big.parquet", id=range(rows), text=["z" * 1_000_000] * rows, row_group_size=50)
    written = run(cut(path, rows, 1))
    assert [(call["parts"], call["rows"]) for call in written] == [([0], rows)]


def test_several_row_groups_of_a_part_are_one_block(
    run: Callable[..., list[dict[str, Any]]], write_input: Callable[..., Path]
) -> None:
    (call,) = run(cut(write_input("a.parquet", id=range(1_000), row_group_size=10), 1_000, 1))
    assert call["ids"] == list(range(1_000))


def test_steps_run_when_ranks_reserve_all_cpus(
    run: Callable[..., list[dict[str, Any]]], write_input: Callable[..., Path]
) -> None:
    everything = placement_group([{"CPU": ray.cluster_resources()["CPU"]}])
    assert everything.wait(30)
    try:
        assert len(run(cut(write_input("a.parquet", id=range(20)), 20, 4))) == 4
    finally:
        remove_placement_group(everything)


@pytest.mark.parametrize(
    ("rows", "parts", "replicas", "expected"),
    [(2_500, 64, 1, 2), (16, 64, 1, 6), (1, 64, 1, 16), (1, 12, 4, 3), (1, 1, 1, 2)],
    ids=["big parts", "half the slots", "single rows", "few parts for each", "one part"],
)
def test_the_number_of_parts_in_flight_per_replica(rows: int, parts: int, replicas: int, expected: int) -> None:
    assert choose_in_flight([rows] * parts, slots=32, samples=1, replicas=replicas) == expected
