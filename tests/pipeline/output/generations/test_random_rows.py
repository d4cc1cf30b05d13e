"""Rows that draw random numbers: those that are added or answered again draw what they would in a single run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.output.generations.conftest import rows_of
from tests.pipeline.without_ray import echo_seeds, run_without_ray
from tirazh.model.requests import GenerateRequest
from tirazh.pipeline.build import run_job
from tirazh.pipeline.job_run import JobRun
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.spec import GenerateSpec
from tirazh.pipeline.storage.filesystem import Storage

pytestmark = pytest.mark.usefixtures("no_ray")

FIRST, SECOND = ["a", "b", "a", "c"], ["a", "c", "d", "a", "d"]


@pytest.fixture
def spec(tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> GenerateSpec:
    """A job that samples; the completion of a row follows from its seed alone."""
    run_without_ray(monkeypatch)
    write(tmp_path / "in/1.parquet", FIRST)
    return GenerateSpec(
        input=(str(tmp_path / "in"),),
        output=str(tmp_path / "out"),
        model=str(model_dir),
        temperature=1.0,
        part_rows=2,
        max_new_tokens=4,
    )


def write(path: Path, prompts: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"prompt": prompts}), path)


def completions(spec: GenerateSpec) -> list[Any]:
    return [(row["prompt"], row["completion"]) for row in rows_of(OutputFiles(Storage(), spec.output))]


def in_one_run(spec: GenerateSpec) -> list[Any]:
    """The rows of a single run over the input as it is now."""
    single = replace(spec, output=f"{spec.output}-single", append=False, key=None, retry_failed=False)
    run_job(single)
    return completions(single)


@pytest.mark.parametrize("samples", [1, 2])
def test_rows_that_are_added_draw_what_they_would_in_one_run(spec: GenerateSpec, tmp_path: Path, samples: int) -> None:
    spec = replace(spec, append=True, samples=samples)
    run_job(spec)
    write(tmp_path / "in/2.parquet", SECOND)
    run_job(spec)
    assert completions(spec) == in_one_run(spec)
    assert len(set(completions(spec))) == 9 * samples, "equal prompts draw other random numbers"
    assert verify(spec.output).problems == ()


def test_rows_added_after_their_predecessors_were_archived_draw_the_same(spec: GenerateSpec, tmp_path: Path) -> None:
    spec = replace(spec, append=True)
    run_job(spec)
    write(tmp_path / "in/2.parquet", SECOND)
    expected = in_one_run(spec)
    (tmp_path / "in/1.parquet").unlink()
    run_job(spec)
    assert completions(spec) == expected


def test_with_a_key_rows_that_are_left_out_do_not_count_as_repetitions(spec: GenerateSpec, tmp_path: Path) -> None:
    """The rows of the output are those of a run over the same rows without the repeated ones."""
    spec = replace(spec, append=True, key="prompt")
    run_job(spec)
    write(tmp_path / "in/1.parquet", [*SECOND, *FIRST])
    run_job(spec)
    assert [prompt for prompt, _ in completions(spec)] == ["a", "b", "c", "d"]
    found = dict(completions(spec))
    (tmp_path / "in/1.parquet").unlink()
    write(tmp_path / "in/1.parquet", ["a", "b", "c", "d"])
    assert dict(in_one_run(spec)) == found


def failing(*numbers: int) -> Callable[[JobRun, Sequence[GenerateRequest]], list[Any]]:
    """Answers as `echo_seeds`, where the requests with these numbers fail, counted over the whole run."""
    count = 0

    def answer(run: JobRun, requests: Sequence[GenerateRequest]) -> list[Any]:
        nonlocal count
        made = []
        for each in echo_seeds(run, requests):
            is_bad = count in numbers
            made.append(replace(each, finish_reason="error", error="not finite") if is_bad else each)
            count += 1
        return made

    return answer


@pytest.mark.parametrize("samples", [1, 3])
def test_rows_that_are_answered_again_draw_what_they_would_have(
    spec: GenerateSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, samples: int
) -> None:
    write(tmp_path / "in/2.parquet", SECOND)
    spec = replace(spec, samples=samples, max_error_rate=0.5)
    expected = in_one_run(spec)
    with monkeypatch.context() as patch:
        run_without_ray(patch, failing(0, 4, 8))
        assert run_job(spec)["errors"] == 3
    before = rows_of(OutputFiles(Storage(), spec.output))
    run_without_ray(monkeypatch)
    assert run_job(replace(spec, retry_failed=True))["errors"] == 0
    assert completions(spec) == expected
    after = rows_of(OutputFiles(Storage(), spec.output))
    assert [new for new, old in zip(after, before, strict=True) if old["error"] is None] == [
        old for old in before if old["error"] is None
    ]
    assert verify(spec.output).problems == ()


@pytest.mark.parametrize("has_input", [False, True])
def test_failed_rows_of_a_crossing_are_answered_again(
    spec: GenerateSpec, monkeypatch: pytest.MonkeyPatch, has_input: bool
) -> None:
    """Every cell has several rows, which draw different random numbers."""
    crossed = replace(
        spec,
        input=spec.input if has_input else (),
        vary={"topic": ["x", "y"]},
        per_cell=3,
        template="{{ prompt }} {{ topic }}" if has_input else "{{ topic }}",
        part_rows=4,
        max_error_rate=0.9,
    )
    texts = ["topic", "completion"]
    run_job(replace(crossed, output=f"{spec.output}-single"))
    expected = [[row[name] for name in texts] for row in rows_of(OutputFiles(Storage(), f"{spec.output}-single"))]
    with monkeypatch.context() as patch:
        run_without_ray(patch, failing(1, 2, 5))
        assert run_job(crossed)["errors"] == 3
    run_without_ray(monkeypatch)
    assert run_job(replace(crossed, retry_failed=True))["errors"] == 0
    assert [[row[name] for name in texts] for row in rows_of(OutputFiles(Storage(), spec.output))] == expected
    assert verify(spec.output).problems == ()
