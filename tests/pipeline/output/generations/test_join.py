"""Small files are joined at the end of a job, and a joined output is one like any other."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.output.generations.conftest import LATE, add_file, files_of, parts_of, rows_of, texts_of
from tests.pipeline.output.generations.test_retry import failing
from tests.pipeline.without_ray import run_without_ray
from tirazh.pipeline.build import run_job
from tirazh.pipeline.input import parts as input_parts
from tirazh.pipeline.output.generations import join
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import read_plan
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.storage.filesystem import Storage

pytestmark = pytest.mark.usefixtures("no_ray")
MakeSpec = Callable[..., ClassifySpec]


@pytest.fixture
def many(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> MakeSpec:
    """Specs of a job whose 30 rows are cut into more than four parts."""
    monkeypatch.setattr(input_parts, "MIN_PART_TOKENS", 8)
    return lambda **changes: make_spec(**{"part_rows": None, **changes})


def test_a_job_of_many_small_parts_ends_with_one_file(many: MakeSpec, job_output: OutputFiles) -> None:
    spec = many(output=job_output.directory)
    single = replace(spec, output=f"{spec.output}-single")
    run_job(single)
    assert len(OutputFiles(Storage(), single.output).parts()) > 4
    manifest = run_job(spec, joins=True)
    assert (manifest["num_parts"], manifest["rows"]) == (1, 30)
    (name,) = job_output.parts()
    assert name.startswith("part-00000-of-00001-")
    assert rows_of(job_output) == rows_of(OutputFiles(Storage(), single.output))
    found = verify(spec.output)
    assert (found.problems, found.rows, found.rows_expected) == ((), 30, 30)
    assert job_output.storage.names(job_output.staged.directory) == {}


def test_a_joined_output_is_complete_for_every_later_run(many: MakeSpec, job_output: OutputFiles) -> None:
    spec = many(output=job_output.directory)
    made = run_job(spec, joins=True)
    before = files_of(job_output)
    for joins in (True, False):
        assert run_job(spec, joins=joins) == made
        assert files_of(job_output) == before


def test_the_manifest_keeps_the_facts_of_the_run(many: MakeSpec, job_output: OutputFiles) -> None:
    spec = many(output=job_output.directory)
    before = run_job(replace(spec, output=f"{spec.output}-single"))
    after = run_job(spec, joins=True)
    changed = {"output", "spec", "plan_id", "parts", "num_parts", "generations", "left_out_rows"}
    changed |= {"seconds", "seconds_wall", "begin", "end", "timeline", "forecast"}
    assert {name: value for name, value in after.items() if name not in changed} == {
        name: value for name, value in before.items() if name not in changed
    }
    assert after["seconds"] >= 0


def test_parts_whose_rows_were_asked_for_stay(make_spec: MakeSpec, job_output: OutputFiles) -> None:
    assert run_job(make_spec(output=job_output.directory, part_rows=3), joins=True)["num_parts"] == 10


def test_many_small_input_files_end_in_one_file(many: MakeSpec, job_output: OutputFiles) -> None:
    spec = many(output=job_output.directory)
    for number in range(9):
        add_file(spec, f"b{number}.parquet", [f"file {number} row {row}" for row in range(2)])
    assert run_job(spec, joins=True)["num_parts"] == 1
    assert len(rows_of(job_output)) == 48
    assert verify(spec.output).problems == ()
    for path in Path(spec.input[0]).iterdir():
        os.utime(path, (1, 1))
    before = files_of(job_output)
    run_job(spec, joins=True)
    assert files_of(job_output) == before
    assert verify(spec.output).problems == ()


def test_a_damaged_joined_part_is_made_again(many: MakeSpec, job_output: OutputFiles) -> None:
    spec = many(output=job_output.directory)
    add_file(spec, "b.parquet", LATE)
    run_job(spec, joins=True)
    ((name, data),) = parts_of(job_output).items()
    rows = rows_of(job_output)
    job_output.storage.write(job_output.part(name), data[:-20])
    run_job(spec, joins=True)
    assert rows_of(job_output) == rows
    assert verify(spec.output).problems == ()


def test_large_files_stay_and_the_small_ones_between_them_are_joined(many: MakeSpec, job_output: OutputFiles) -> None:
    spec = many(output=job_output.directory)
    run_job(spec)
    sizes = job_output.parts()
    large = sorted(sizes)[2]
    base = read_plan(job_output)
    assert base is not None
    target = join.plan_join(base, sizes | {large: join._SMALL_BYTES}, spec)
    assert target is not None
    assert [part.name for part in target.parts if part.name in sizes] == [large]
    assert len(target.parts) == 3
    assert sum(part.rows for part in target.parts) == 30


def test_rows_are_added_to_a_joined_output(many: MakeSpec, job_output: OutputFiles) -> None:
    spec = many(output=job_output.directory, append=True, key="text")
    run_job(spec, joins=True)
    before = parts_of(job_output)
    add_file(spec, "late.parquet", [f"text {n}" for n in range(25, 33)])
    manifest = run_job(spec, joins=True)
    assert manifest["rows"] == 33
    assert parts_of(job_output).items() >= before.items()
    assert texts_of(job_output) == [f"text {n}" for n in range(33)]
    assert verify(spec.output).problems == ()


def test_failed_rows_of_a_joined_output_are_answered_again(many: MakeSpec, job_output: OutputFiles) -> None:
    spec = many(output=job_output.directory, max_error_rate=0.5)
    with failing("text 3", "text 29"):
        assert run_job(spec, joins=True)["errors"] == 2
    with failing() as asked:
        manifest = run_job(replace(spec, retry_failed=True), joins=True)
    assert asked == ["text 3", "text 29"]
    assert (manifest["errors"], manifest["num_parts"]) == (0, 1)
    assert verify(spec.output).problems == ()


def test_the_files_of_an_added_night_are_joined_and_the_old_ones_stay(many: MakeSpec, job_output: OutputFiles) -> None:
    spec = many(output=job_output.directory, append=True)
    run_job(spec, joins=True)
    before = parts_of(job_output)
    add_file(spec, "late.parquet", LATE)
    assert run_job(spec, joins=True)["num_parts"] == 2
    assert parts_of(job_output).items() >= before.items()
    assert len(rows_of(job_output)) == 42
    assert verify(spec.output).problems == ()


def test_nights_of_a_year_stay_few_files(
    many: MakeSpec, job_output: OutputFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "_MANY_SMALL", 6)
    spec = many(output=job_output.directory, append=True)
    run_job(spec, joins=True)
    counts = []
    for night in range(9):
        add_file(spec, f"night-{night:02d}.parquet", [f"night {night} row {row}" for row in range(3)])
        counts.append(run_job(spec, joins=True)["num_parts"])
    assert max(counts) <= 7
    assert min(counts[3:]) == 1, "all of them are joined once there are many"
    assert len(rows_of(job_output)) == 57
    assert verify(spec.output).problems == ()


def test_values_of_all_types_survive(tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dictionaries, lists, structs, maps, decimals and timestamps with zones."""
    from decimal import Decimal

    run_without_ray(monkeypatch)
    monkeypatch.setattr(input_parts, "MIN_PART_TOKENS", 8)
    table = pa.table(
        {
            "text": [f"text {n}" for n in range(30)],
            "kind": pa.array(["a", "b", None] * 10).dictionary_encode(),
            "lists": [[n, None] if n % 3 else None for n in range(30)],
            "structs": [{"x": n, "y": [str(n)]} for n in range(30)],
            "maps": pa.array([[("k", n)] for n in range(30)], pa.map_(pa.string(), pa.int64())),
            "money": pa.array([Decimal(n) / 100 for n in range(30)], pa.decimal128(10, 2)),
            "time": pa.array(range(30), pa.timestamp("ms", "Europe/Moscow")),
            "nan": [float("nan")] * 30,
        }
    )
    (tmp_path / "in").mkdir(exist_ok=True)
    for path in (tmp_path / "in").iterdir():
        path.unlink()
    pq.write_table(table, tmp_path / "in/a.parquet", row_group_size=5)
    spec = ClassifySpec(
        input=(str(tmp_path / "in"),), output=str(tmp_path / "out"), model=str(model_dir), labels={"a": "a", "b": "b"}
    )
    assert run_job(spec, joins=True)["num_parts"] == 1
    (part,) = Path(spec.output).glob("*.parquet")
    joined = pq.read_table(part)
    assert (
        joined.select(table.column_names)
        .drop_columns("nan")
        .cast(table.drop_columns("nan").schema)
        .equals(table.drop_columns("nan"))
    )
    assert verify(spec.output).problems == ()
