"""Jobs over a crossing: planned, run, resumed and verified without an input; rows stay when lists grow."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from tests.pipeline.without_ray import run_without_ray
from tirazh.errors import InputError, OutputError, RequestError
from tirazh.model.requests import Completion, GenerateRequest
from tirazh.pipeline.build import run_job
from tirazh.pipeline.crossing import layouts
from tirazh.pipeline.forecast.dry_run import dry_run
from tirazh.pipeline.job_run import JobRun
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import read_plan
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.spec import GenerateSpec
from tirazh.pipeline.storage.filesystem import Storage

VARY: dict[str, Any] = {"topic": ["sport", "science", "art"], "style": {"plain": 3, "lively": 1}}
TEMPLATE = "{{ style }} news about {{ topic }}"
Make = Callable[..., GenerateSpec]


@pytest.fixture
def make(tmp_path: Path, model_dir: Path) -> Make:
    def spec(name: str = "out", *, topics: list[str] | None = None, **settings: Any) -> GenerateSpec:
        vary = VARY if topics is None else VARY | {"topic": topics}
        given: dict[str, Any] = {"vary": vary, "template": TEMPLATE, "max_new_tokens": 4} | settings
        return GenerateSpec(output=str(tmp_path / name), model=str(model_dir), **given)

    return spec


def seeds_as_texts(run: JobRun, requests: Sequence[GenerateRequest]) -> list[Completion]:
    """A completion for every request, a text that stands for the whole seed."""
    return [
        Completion(token_ids=[40 + request.seed // 50**place % 50 for place in range(12)], finish_reason="length")
        for request in requests
    ]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[GenerateSpec], pl.DataFrame]:
    run_without_ray(monkeypatch, seeds_as_texts)

    def rows(spec: GenerateSpec) -> pl.DataFrame:
        run_job(spec)
        assert verify(spec.output).problems == ()
        return pl.read_parquet(f"{spec.output}/*.parquet")

    return rows


Run = Callable[[GenerateSpec], pl.DataFrame]


def test_a_job_without_an_input_writes_every_cell_so_many_times(make: Make, run: Run) -> None:
    rows = run(make(per_cell=5, part_rows=7))
    assert rows.columns[:3] == ["topic", "style", "completion"]
    assert Counter(zip(rows["topic"], rows["style"], strict=True)) == {
        (topic, style): 5 for topic in VARY["topic"] for style in VARY["style"]
    }
    assert rows["completion"].n_unique() == 30
    assert rows["error"].null_count() == 30


def test_the_rows_are_the_same_in_parts_of_any_size(make: Make, run: Run) -> None:
    assert run(make(per_cell=5, part_rows=1)).equals(run(make("other", per_cell=5, part_rows=11)))
    assert run(make("drawn", rows=30, part_rows=4)).equals(run(make("drawn-other", rows=30)))


@pytest.mark.parametrize("number", [{"per_cell": 4}, {"rows": 60}], ids=["per cell", "drawn"])
def test_adding_a_topic_leaves_every_old_row_as_it_was(make: Make, run: Run, number: dict[str, int]) -> None:
    old = run(make(**number))
    new = run(make("new", topics=["new", "art", *VARY["topic"][:2]], **number)).filter(pl.col("topic") != "new")
    old_rows, new_rows = set(old.rows()), set(new.rows())
    assert new_rows <= old_rows
    if "per_cell" in number:
        assert new_rows == old_rows
    else:
        assert 30 < len(new_rows) < 60


def test_cells_with_the_same_prompt_have_different_rows(make: Make, run: Run) -> None:
    rows = run(make(per_cell=3, template="news about {{ topic }}"))
    assert rows["completion"].n_unique() == 18


def test_rows_of_a_crossing_are_those_of_a_file_with_the_same_columns(
    make: Make, run: Run, write_input: Callable[..., Path]
) -> None:
    """So a crossing can be replaced by a table that was edited by hand."""
    crossed = run(make(per_cell=3))
    path = write_input("rows.parquet", **{name: crossed[name].to_list() for name in VARY})
    assert run(make("file", vary=None, input=(str(path),))).equals(crossed)


def test_a_run_after_a_lost_part_makes_that_part_alone(make: Make, run: Run) -> None:
    spec = make(per_cell=5, part_rows=7)
    before = run(spec)
    parts = sorted(Path(spec.output).glob("*.parquet"))
    bytes_before = {part.name: part.read_bytes() for part in parts}
    parts[2].unlink()
    found = verify(spec.output)
    assert found.problems[0].startswith("1 of 5 parts are missing")
    times = {part: part.stat().st_mtime_ns for part in parts if part != parts[2]}
    assert run(spec).equals(before)
    assert {part.name: part.read_bytes() for part in parts} == bytes_before
    assert {part: part.stat().st_mtime_ns for part in times} == times


def test_a_row_that_is_not_of_the_crossing_is_found(make: Make, run: Run, tmp_path: Path) -> None:
    """The plan holds the lists, so nothing but the output is needed."""
    spec = make(vary=VARY | {"topic": str(tmp_path / "topics.txt")}, per_cell=5, part_rows=7)
    (tmp_path / "topics.txt").write_text("sport\nscience\n")
    run(spec)
    (tmp_path / "topics.txt").unlink()
    assert verify(spec.output).is_whole
    plan = read_plan(OutputFiles(Storage(), spec.output))
    assert plan is not None
    assert plan.crossing is not None
    assert plan.crossing.cell_values(2) == {"topic": "science", "style": "plain"}
    file = Path(spec.output) / "_tirazh/plan.json"
    changed = json.loads(file.read_text())
    changed["crossing"]["lists"][0]["values"] = ["science", "sport"]
    file.write_text(json.dumps(changed))
    assert "plan.json is damaged or was changed" in verify(spec.output).problems[0]


def test_rows_that_the_crossing_would_not_make_are_found(make: Make, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make(rows=12, part_rows=5)
    run(spec)
    monkeypatch.setattr(layouts, "draw", lambda values, *, seed, start, stop: np.zeros(stop - start, np.int64))
    (problem,) = verify(spec.output).problems
    assert problem.startswith("rows of the output are not those of the input file vary:")
    assert "differs in column" in problem


def test_a_changed_list_is_another_job(make: Make, run: Run) -> None:
    run(make(per_cell=2))
    with pytest.raises(OutputError, match="the output of another job: --vary differs"):
        run(make(per_cell=2, topics=["sport"]))
    with pytest.raises(OutputError, match="--per-cell differs"):
        run(make(per_cell=3))
    assert len(run(make(per_cell=2, topics=["sport"], overwrite=True))) == 4


def test_a_list_in_a_file_and_in_the_job_are_the_same_job(make: Make, run: Run, tmp_path: Path) -> None:
    (tmp_path / "topics.txt").write_text("\n".join(VARY["topic"]))
    rows = run(make(per_cell=2))
    assert run(make(per_cell=2, vary=VARY | {"topic": f"{tmp_path}/topics.txt"})).equals(rows)


def test_limit_takes_the_first_rows(make: Make, run: Run) -> None:
    rows = run(make(per_cell=5))
    assert run(make("first", per_cell=5, limit=7)).equals(rows.head(7))


def test_numbers_are_columns_of_numbers_and_may_set_sampling_parameters(make: Make, run: Run) -> None:
    spec = make(per_cell=2, vary={"topic": ["sport"], "style": ["plain"], "temperature": [0.5, 1.0], "size": [1, 2]})
    assert plan_job(spec).overrides == ("temperature",)
    rows = run(spec)
    assert (rows.schema["temperature"], rows.schema["size"]) == (pl.Float64, pl.Int64)
    assert pq.read_schema(next(Path(spec.output).glob("*.parquet"))).field("size").type == "int64"
    assert rows["completion"].n_unique() == 8


def test_the_plan_shows_lists_cells_and_rows(make: Make) -> None:
    spec = make(per_cell=1_000, template="news about {{ topic }}")
    plan = plan_job(spec)
    summary = plan.summary()
    assert {name: summary[name] for name in ("files", "vary", "cells", "per_cell", "rows")} == {
        "files": 0,
        "vary": ["topic: 3", "style: 2"],
        "cells": 6,
        "per_cell": 1_000,
        "rows": 6_000,
    }
    assert dry_run(spec, plan)["notes"] == [
        "--vary: style is not used by the template; its values only become columns",
        "--vary: the weights of style have no effect with --per-cell, which makes every cell",
    ]
    assert 16 <= len(plan.parts) <= 128


def test_estimated_tokens_follow_the_lengths_of_the_values(make: Make) -> None:
    short = plan_job(make(per_cell=100)).estimated_tokens
    long = plan_job(make(per_cell=100, topics=["x" * 400, "y" * 400, "z" * 400])).estimated_tokens
    assert long - short == pytest.approx(600 * (400 - 5) / 4, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"vary": {"a-b": ["x"]}}, "'a-b' cannot be a variable of a template"),
        ({"vary": {"row": ["x"]}}, "'row' cannot be a variable of a template"),
        ({"vary": {"Completion": ["x"]}}, "--vary names 'Completion', and the job adds a column 'completion'"),
        ({"vary": {"topic": ["x"], "Topic": ["x"]}}, "'topic' and 'Topic', which differ only in case"),
        ({"vary": {"__tirazh_a": ["x"]}}, "are reserved"),
        ({"vary": {"topic": ["x"], "seed": [1]}}, "--vary cannot vary the seed"),
        ({"template": "{{ topik }}"}, "--template uses 'topik', which is not a name of --vary; did you mean topic"),
        ({"template": None}, "--vary needs a --template that uses its names, such as '{{ topic }} {{ style }}'"),
        ({"vary": {"topic": "nothing.txt"}}, "--vary, topic: .*nothing.txt.* does not exist"),
        ({"vary": {"topic": [str(n) for n in range(1_000)], "style": list(range(1_000))}, "per_cell": 5_000},
            "give 5,000,000,000 rows; at most 2,147,483,647 are possible"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_refused_when_it_is_planned(make: Make, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        plan_job(make(**{"per_cell": 1} | settings))
    assert "\n" not in str(caught.value)


def test_a_million_cells_with_a_limit_are_planned(make: Make) -> None:
    vary = {"topic": [str(n) for n in range(1_000)], "style": list(range(1_000))}
    assert plan_job(make(vary=vary, per_cell=5_000, limit=50)).rows == 50


def test_a_prompt_column_may_be_varied_without_a_template(make: Make, run: Run) -> None:
    rows = run(make(vary={"prompt": ["one", "two"]}, per_cell=2, template=None))
    assert rows["prompt"].to_list() == ["one", "one", "two", "two"]
    with pytest.raises(InputError):
        plan_job(make(vary={"prompt": [1]}, per_cell=2, template=None))


def test_a_stored_plan_continues_whatever_the_limit_of_parts_is_now(make: Make, run: Run) -> None:
    spec = make(per_cell=5, part_rows=7)
    rows = run(spec)
    next(Path(spec.output).glob("*.parquet")).unlink()
    assert run(replace(spec, part_rows=2)).equals(rows)
