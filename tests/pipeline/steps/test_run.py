"""Jobs of several steps: what they write, what a second run does, what they refuse. In this process, without Ray."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.pipeline.steps.in_process import InProcess, KilledError, kill_points
from tirazh.errors import InputError, OutputError, RequestError
from tirazh.jobs.job_files.steps_file import build_steps_spec
from tirazh.pipeline.execution.metrics import ProgressEvent
from tirazh.pipeline.steps.run import run_steps
from tirazh.pipeline.steps.verify import verify_output

Write = Callable[..., Path]
LABELS = {"sport": "спорт", "economics": "экономика"}


@pytest.fixture
def job(tmp_path: Path, model_dir: Path, write_input: Write) -> Callable[..., dict[str, Any]]:
    """The values of a job of three steps: title → body → category. Its input has a row without a topic."""

    def make(**changed: Any) -> dict[str, Any]:
        values = {
            "input": str(tmp_path / "in"),
            "output": str(tmp_path / "out"),
            "model": str(model_dir),
            "dtype": "float32",
            "threads": 1,
            "part_rows": 4,
            "max_new_tokens": 9,
            "max_error_rate": 0.5,
            "steps": [
                {"name": "title", "kind": "generate", "template": "{{ topic }}: спорт и экономика"},
                {
                    "name": "body",
                    "kind": "generate",
                    "template": "{{ title_completion }} — {{ topic }}",
                    "temperature": 0,
                },
                {"name": "category", "kind": "classify", "text_column": "body_completion", "labels": LABELS},
            ],
        }
        return values | changed

    write_input("topics.parquet", id=range(10), topic=[f"тема {n}" for n in range(6)] + [None] + ["спорт"] * 3)
    return make


def run(values: dict[str, Any], **more: Any) -> dict[str, Any]:
    return run_steps(build_steps_spec(values), **more)


def read(out: Path) -> pl.DataFrame:
    return pl.read_parquet(f"{out}/*.parquet")


def hashes(out: Path) -> dict[str, str]:
    """The SHA-256 of every part file of every step and of the output."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*.parquet"))
    }


def test_each_step_reads_the_columns_of_the_steps_before(
    process: InProcess, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    events: list[ProgressEvent] = []
    manifest = run(job(), on_progress=events.append)
    rows = read(tmp_path / "out")
    assert rows["id"].to_list() == list(range(10))
    assert rows.columns == [
        *("id", "topic"),
        *("title_completion", "title_finish_reason", "title_prompt_tokens", "title_completion_tokens", "title_logprob"),
        *("body_completion", "body_finish_reason", "body_prompt_tokens", "body_completion_tokens", "body_logprob"),
        *("category_label", "category_confidence", "category_probabilities", "category_prompt_tokens"),
        "error",
    ]
    assert rows["body_completion"][0].startswith(rows["title_completion"][0][:4])
    assert set(rows["category_label"].drop_nulls()) <= set(LABELS)
    assert (manifest["kind"], manifest["rows"], manifest["errors"]) == ("steps", 10, 1)
    assert [step["name"] for step in manifest["steps"]] == ["title", "body", "category"]
    assert manifest["prompt_tokens"] == sum(step["prompt_tokens"] for step in manifest["steps"])
    assert [event.step for event in events if event.parts_done == event.parts_total][-1] == "step 4 of 4: output"
    assert verify_output(str(tmp_path / "out")).problems == ()


def test_a_row_with_an_error_is_passed_on_with_the_name_of_its_step_and_never_computed_again(
    process: InProcess, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run(job())
    rows = read(tmp_path / "out")
    assert rows["error"].is_null().to_list() == [True] * 6 + [False] + [True] * 3
    assert rows["error"][6].startswith("title: ")
    assert rows["category_label"][6] is None
    assert process.made == {"01-title": 9, "02-body": 9, "03-category": 9}


def test_a_score_step_scores_what_an_earlier_step_made(
    process: InProcess, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    values = job()
    values["steps"].append({"name": "fit", "kind": "score", "text_column": "body_completion"})
    run(values)
    rows = read(tmp_path / "out")
    assert rows["fit_num_tokens"].is_null().to_list() == rows["error"].is_not_null().to_list()
    assert process.made["04-fit"] == 9
    assert verify_output(str(tmp_path / "out")).problems == ()


def test_a_second_run_makes_nothing(process: InProcess, job: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    first = run(job())
    before, made = hashes(tmp_path / "out"), dict(process.made)
    assert run(job()) == first
    assert (hashes(tmp_path / "out"), process.made) == (before, made)


@pytest.mark.parametrize("parts", kill_points(range(12), fast=(0, 4, 8, 11)))
def test_a_run_that_is_killed_anywhere_is_completed_by_the_same_command(
    parts: int, process: InProcess, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run(job(output=str(tmp_path / "undisturbed")))
    process.made.clear()
    process.kill_after = parts
    with pytest.raises(KilledError):
        run(job())
    process.kill_after = None
    run(job())
    assert process.made == {"01-title": 9, "02-body": 9, "03-category": 9}, "no row is computed twice"
    assert read(tmp_path / "out").equals(read(tmp_path / "undisturbed"))
    assert verify_output(str(tmp_path / "out")).problems == ()


def test_the_output_has_only_the_asked_columns(
    process: InProcess, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    manifest = run(job(columns=["category_label", "topic"]))
    rows = read(tmp_path / "out")
    assert rows.columns == ["category_label", "topic"]
    assert (manifest["rows"], manifest["dropped_rows"], manifest["drop_reasons"]) == (9, 1, {"error": 1})
    dropped = read(tmp_path / "out/_dropped")
    assert dropped["drop_reasons"].to_list() == [["error"]]
    assert dropped["error"][0].startswith("title: ")
    assert verify_output(str(tmp_path / "out")).problems == ()


@pytest.mark.parametrize(
    ("step", "changed", "says"),
    [
        (1, {"template": "{{ titel_completion }}"}, "step 'body': .*titel_completion.*did you mean"),
        (2, {"text_column": "body"}, "step 'category': the input has no column 'body'"),
        (1, {"prefix": "title_"}, "step 'body': the input already has a column 'title_completion'"),
        (2, {"kind": "clasify"}, "step 'category': kind must be one of .*did you mean classify"),
        (1, {"input": "x.parquet"}, "step 'body': input is possible in the first step only"),
        (1, {"name": "title"}, "two steps have the name 'title'"),
        (1, {"name": "2nd"}, "step '2nd': a name begins with a letter"),
        (1, {"tempreature": 1}, "step 'body': generate has no setting 'tempreature'; did you mean temperature"),
        (1, {"output": "x"}, "step 'body': output is a setting of the whole job"),
    ],
)
def test_a_wrong_step_is_refused_before_anything_starts(
    step: int,
    changed: dict[str, Any],
    says: str,
    process: InProcess,
    job: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    values = job()
    values["steps"][step] |= changed
    with pytest.raises(RequestError, match=says):
        run(values)
    assert not (tmp_path / "out").exists()


def test_an_unknown_column_of_the_output_is_refused(process: InProcess, job: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(InputError, match="the output has no column 'topik'; did you mean topic"):
        run(job(columns=["topik"]))


def test_an_unknown_setting_at_the_top_is_refused(process: InProcess, job: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(RequestError, match="no step has a setting 'modle'; did you mean model"):
        run(job(modle="x"))


def test_other_settings_of_any_step_are_another_job(
    process: InProcess, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run(job())
    changed = job()
    changed["steps"][1]["template"] = "{{ title_completion }}"
    with pytest.raises(OutputError, match=r"step 'body'.*another job: --template differs"):
        run(changed)
    with pytest.raises(OutputError, match="another job"):
        run(job(columns=["topic"]))
    assert verify_output(str(tmp_path / "out")).problems == ()
    run(changed | {"overwrite": True})
    assert verify_output(str(tmp_path / "out")).problems == ()
    assert process.made["01-title"] == 9, "the first step is the same, so its rows are kept"


def test_verify_finds_a_row_that_is_missing_in_a_step(
    process: InProcess, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run(job())
    part = next((tmp_path / "out/_tirazh/steps/02-body").glob("part-00001-*.parquet"))
    part.unlink()
    problems = verify_output(str(tmp_path / "out")).problems
    assert any(problem.startswith("step 02-body: 1 of 3 parts are missing") for problem in problems)
    run(job())
    assert verify_output(str(tmp_path / "out")).problems == ()


def test_verify_finds_a_changed_row_of_the_output(
    process: InProcess, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run(job())
    part = next((tmp_path / "out").glob("part-00001-*.parquet"))
    pl.read_parquet(part).reverse().write_parquet(part)
    (problem,) = verify_output(str(tmp_path / "out")).problems
    assert problem.startswith(part.name)
