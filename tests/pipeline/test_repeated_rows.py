"""A resume numbers equal rows as the first run did, also when input files have been archived since."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tirazh.errors import InputError
from tirazh.pipeline.input.read import read_rows
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.plan import Plan, plan_job
from tirazh.pipeline.prompt_setup import set_up_prompts
from tirazh.pipeline.repeated_rows import draws, repetitions_of
from tirazh.pipeline.spec import GenerateSpec
from tirazh.pipeline.storage.filesystem import Storage

FILES = {"a": ["x", "y", "x", "z"], "b": ["y", "y", "w", "x"]}
EXPECTED = {1: [1, 0], 2: [1, 2], 3: [0, 2]}


@pytest.fixture
def spec(write_input: Callable[..., Path], tmp_path: Path, model_dir: Path) -> GenerateSpec:
    for name, prompts in FILES.items():
        write_input(f"{name}.parquet", prompt=prompts, id=range(4))
    return GenerateSpec(
        input=(str(tmp_path / "in"),),
        output=str(tmp_path / "out"),
        model=str(model_dir),
        max_new_tokens=4,
        temperature=1.0,
        part_rows=2,
    )


def counted(spec: GenerateSpec, plan: Plan, *remaining: int) -> dict[int, list[int]]:
    output = OutputFiles(Storage(), spec.output)
    chosen = [plan.parts[index] for index in remaining]
    found = repetitions_of(plan, chosen, set_up_prompts(spec, plan).config, output)
    return {index: numbers.tolist() for index, numbers in found.items()}


def finish(spec: GenerateSpec, plan: Plan, *indices: int) -> None:
    """Write part files that have kept the rows of the input."""
    for index in indices:
        part = plan.parts[index]
        Path(spec.output).mkdir(exist_ok=True)
        pq.write_table(read_rows(part, Storage()), Path(spec.output) / part.name)


def test_rows_are_numbered_over_all_files(spec: GenerateSpec) -> None:
    assert counted(spec, plan_job(spec), 0, 1, 2, 3) == EXPECTED


def test_a_resume_numbers_its_rows_as_the_first_run_did(spec: GenerateSpec) -> None:
    plan = plan_job(spec)
    finish(spec, plan, 0, 2)
    assert counted(spec, plan, 3) == EXPECTED
    assert counted(spec, plan, 1) == {1: EXPECTED[1]}, "the rows behind the last remaining part are not read"


def test_the_rows_of_an_archived_file_are_taken_from_its_finished_parts(spec: GenerateSpec, tmp_path: Path) -> None:
    plan = plan_job(spec)
    finish(spec, plan, 0, 1)
    (tmp_path / "in/a.parquet").unlink()
    assert counted(spec, plan, 2, 3) == EXPECTED


def test_a_missing_file_of_an_unfinished_part_is_named(spec: GenerateSpec, tmp_path: Path) -> None:
    plan = plan_job(spec)
    (tmp_path / "in/a.parquet").unlink()
    with pytest.raises(InputError, match=r"a\.parquet"):
        counted(spec, plan, 0, 1, 2, 3)


@pytest.mark.parametrize("overrides", [{}, {"temperature": [0.0] * 4}], ids=["greedy", "by column"])
def test_a_greedy_job_reads_nothing_unless_a_column_sets_the_temperature(
    spec: GenerateSpec, write_input: Callable[..., Path], overrides: dict[str, list[float]]
) -> None:
    for name, prompts in FILES.items():
        write_input(f"{name}.parquet", prompt=prompts, **overrides)
    greedy = replace(spec, temperature=0.0)
    plan = plan_job(greedy)
    assert draws(set_up_prompts(greedy, plan).config) == bool(overrides)
    assert bool(counted(greedy, plan, 0, 1, 2, 3)) == bool(overrides)
