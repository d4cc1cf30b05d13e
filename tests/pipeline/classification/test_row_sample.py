"""The rows that calibrate a job follow from the contents of its input alone, and belong to its identity."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tirazh.errors import OutputError
from tirazh.pipeline.classification.row_sample import MAX_CHOSEN_ROWS, MAX_SAMPLE_ROWS
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import choose_target, write_plan
from tirazh.pipeline.plan import CALIBRATION_SAMPLE, Plan, plan_job
from tirazh.pipeline.prompt_setup import set_up_prompts
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.storage.filesystem import Storage

LABELS = {"sport": "спорт", "economics": "экономика"}
TEXTS = [f"новость {number}" for number in range(900)]
MakeSpec = Callable[..., ClassifySpec]


@pytest.fixture
def classify(tmp_path: Path, model_dir: Path) -> MakeSpec:
    paths = {"input": (str(tmp_path / "in"),), "output": str(tmp_path / "out"), "model": str(model_dir)}
    return lambda **settings: ClassifySpec(**{**paths, "labels": LABELS, "calibrate": "batch", **settings})


def write(write_input: Callable[..., Path], tmp_path: Path, texts: list[str | None], *, files: int) -> None:
    for old in (tmp_path / "in").glob("*"):
        old.unlink()
    for number in range(files):
        own = texts[number::files]
        write_input(f"{number}.parquet", text=own, id=range(len(own)), row_group_size=50)


def sample_of(plan: Plan) -> list[Any]:
    assert plan.job.sample is not None
    return plan.job.sample.column("text").to_pylist()


def test_the_sample_does_not_depend_on_order_files_parts_and_repeated_rows(
    classify: MakeSpec, write_input: Callable[..., Path], tmp_path: Path
) -> None:
    write(write_input, tmp_path, [*TEXTS], files=1)
    spec = classify()
    plan = plan_job(spec)
    chosen = sample_of(plan)
    assert len(chosen) == len(set(chosen)) == MAX_CHOSEN_ROWS
    prompts = set_up_prompts(spec, plan).labels
    assert prompts is not None
    assert len(prompts.prior_prompts) == MAX_SAMPLE_ROWS
    shuffled: list[str | None] = [*TEXTS, *TEXTS[:100]]
    random.Random(1).shuffle(shuffled)
    write(write_input, tmp_path, shuffled, files=3)
    other = plan_job(replace(spec, part_rows=70))
    assert sample_of(other) == chosen
    assert other.identity[CALIBRATION_SAMPLE] == plan.identity[CALIBRATION_SAMPLE]


def test_rows_without_a_prompt_are_left_out(
    classify: MakeSpec, write_input: Callable[..., Path], tmp_path: Path
) -> None:
    write(write_input, tmp_path, ["a", None, "", " ", "b"], files=1)
    spec = classify()
    prompts = set_up_prompts(spec, plan_job(spec)).labels
    assert prompts is not None
    assert len(prompts.prior_prompts) == 2


def test_another_sample_is_another_job(classify: MakeSpec, write_input: Callable[..., Path], tmp_path: Path) -> None:
    write(write_input, tmp_path, ["a", "b"], files=1)
    output = OutputFiles(Storage(), str(tmp_path / "out"))
    plan = plan_job(classify())
    write_plan(output, plan)
    assert choose_target(output, plan_job(classify()), overwrite=False).is_stored
    write(write_input, tmp_path, ["a", "c"], files=1)
    with pytest.raises(OutputError, match="--calibrate batch takes its sample"):
        choose_target(output, plan_job(classify()), overwrite=False)


def test_other_jobs_do_not_read_their_rows_at_planning(
    classify: MakeSpec, write_input: Callable[..., Path], tmp_path: Path
) -> None:
    write(write_input, tmp_path, ["a", "b"], files=1)
    plan = plan_job(classify(calibrate="contextual"))
    assert plan.job.sample is None
    assert CALIBRATION_SAMPLE not in plan.identity
