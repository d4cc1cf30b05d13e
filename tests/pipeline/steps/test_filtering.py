"""Filter steps: which rows are kept, where the others are, and that no row is in both places or in none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.pipeline.steps.in_process import InProcess, KilledError, kill_points
from tirazh.errors import OutputError, RequestError
from tirazh.jobs.job_files.steps_file import build_steps_spec
from tirazh.pipeline.spec import GenerateSpec
from tirazh.pipeline.steps.expand import steps_of
from tirazh.pipeline.steps.run import run_steps
from tirazh.pipeline.steps.verify import verify_output

Write = Callable[..., Path]
GOOD = [
    "Утром у реки собрались рыбаки и ждали.",
    "Новый мост открыли в пятницу вечером.",
    "Команда выиграла важный матч.",
]
# The echo engine answers with the prompt, so the prompts are the completions.
PROMPTS = [GOOD[0], "мало", GOOD[1], GOOD[0], "письма на ivan@example.com в пятницу", None, GOOD[2], GOOD[1].upper()]


@pytest.fixture
def generate(tmp_path: Path, model_dir: Path, write_input: Write) -> Callable[..., GenerateSpec]:
    write_input("prompts.parquet", id=range(len(PROMPTS)), prompt=PROMPTS)

    def make(**settings: Any) -> GenerateSpec:
        given = {
            "input": (str(tmp_path / "in"),),
            "output": str(tmp_path / "out"),
            "model": str(model_dir),
            "dtype": "float32",
            "threads": 1,
            "part_rows": 3,
            "max_new_tokens": 200,
            "max_error_rate": 0.5,
        }
        return GenerateSpec(**given | settings)

    return make


def run(spec: GenerateSpec) -> dict[str, Any]:
    steps = steps_of(spec)
    assert steps is not None
    return run_steps(steps)


def read(directory: Path) -> pl.DataFrame:
    return pl.read_parquet(f"{directory}/*.parquet")


def test_rows_that_fail_go_to_the_directory_of_dropped_rows_with_their_reasons(
    process: InProcess, generate: Callable[..., GenerateSpec], tmp_path: Path
) -> None:
    manifest = run(generate(filters=[{"min_chars": 10}]))
    kept, dropped = read(tmp_path / "out"), read(tmp_path / "out/_dropped")
    assert kept["id"].to_list() == [0, 2, 3, 4, 6, 7]
    assert kept["kept"].all()
    assert dropped.select("id", "drop_reasons").rows() == [(1, ["min_chars"]), (5, ["error"])]
    assert dropped["error"][1].startswith("generate: column 'prompt' is null")
    assert (manifest["rows"], manifest["dropped_rows"]) == (6, 2)
    assert manifest["drop_reasons"] == {"error": 1, "min_chars": 1}
    assert verify_output(str(tmp_path / "out")).problems == ()


def test_rows_that_fail_stay_among_the_others_on_request(
    process: InProcess, generate: Callable[..., GenerateSpec], tmp_path: Path
) -> None:
    run(generate(filters=[{"min_chars": 10}], dropped="inline"))
    rows = read(tmp_path / "out")
    assert rows["kept"].to_list() == [True, False, True, True, True, False, True, True]
    assert not (tmp_path / "out/_dropped").exists()
    assert verify_output(str(tmp_path / "out")).problems == ()


def test_duplicates_are_found_over_all_parts_and_the_first_one_stays(
    process: InProcess, generate: Callable[..., GenerateSpec], tmp_path: Path
) -> None:
    manifest = run(generate(dedup="exact", filters=[{"min_chars": 10}]))
    dropped = read(tmp_path / "out/_dropped")
    assert dropped.select("id", "drop_reasons").rows() == [
        (1, ["min_chars"]),
        (3, ["duplicate"]),
        (5, ["error"]),
        (7, ["duplicate"]),
    ]
    assert manifest["drop_reasons"]["duplicate"] == 2
    assert not list((tmp_path / "out/_tirazh").glob("judged/*")), "the intermediate files are removed"
    assert verify_output(str(tmp_path / "out")).problems == ()


def test_rows_of_an_earlier_output_are_duplicates(
    process: InProcess, generate: Callable[..., GenerateSpec], tmp_path: Path
) -> None:
    run(generate(dedup="exact", limit=3, output=str(tmp_path / "earlier")))
    run(generate(dedup="exact", against=(str(tmp_path / "earlier"),)))
    dropped = read(tmp_path / "out/_dropped")
    reasons = dict(dropped.select("id", "drop_reasons").rows())
    assert {row for row, found in reasons.items() if found == ["duplicate_of_earlier"]} == {0, 1, 2, 3, 7}


def test_personal_data_is_masked_and_counted(
    process: InProcess, generate: Callable[..., GenerateSpec], tmp_path: Path
) -> None:
    manifest = run(generate(pii=("email",)))
    assert "ivan@example.com" not in str(read(tmp_path / "out")["completion"].to_list())
    assert manifest["masked"] == {"email": 1}
    assert verify_output(str(tmp_path / "out")).problems == ()


@pytest.mark.parametrize("parts", kill_points(range(9), fast=(0, 4, 7)))
def test_a_filter_step_that_is_killed_anywhere_gives_the_same_rows(
    parts: int, process: InProcess, generate: Callable[..., GenerateSpec], tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"dedup": "near", "filters": [{"min_chars": 10}], "pii": ("email",)}
    run(generate(**settings, output=str(tmp_path / "undisturbed")))
    process.kill_after = parts
    with pytest.raises(KilledError):
        run(generate(**settings))
    process.kill_after = None
    run(generate(**settings))
    for directory in ("", "/_dropped"):
        assert read(Path(f"{tmp_path}/out{directory}")).equals(read(Path(f"{tmp_path}/undisturbed{directory}")))
    assert verify_output(str(tmp_path / "out")).problems == ()


def test_the_next_step_reads_the_kept_rows_of_a_filter_step(
    process: InProcess, generate: Callable[..., GenerateSpec], tmp_path: Path, model_dir: Path
) -> None:
    first = {"name": "text", "kind": "generate"}
    second = {"name": "more", "kind": "generate", "prompt_column": "text_completion"}
    spec = build_steps_spec(
        {
            "input": str(tmp_path / "in"),
            "output": str(tmp_path / "out"),
            "model": str(model_dir),
            "dtype": "float32",
            "threads": 1,
            "part_rows": 3,
            "max_new_tokens": 200,
            "max_error_rate": 0.5,
            "steps": [first, {"name": "good", "kind": "filter", "filters": [{"min_chars": 10}]}, second],
        }
    )
    generate()  # writes the input
    manifest = run_steps(spec)
    rows = read(tmp_path / "out")
    assert rows["id"].to_list() == [0, 2, 3, 4, 5, 6, 7]
    assert rows["error"].is_not_null().to_list() == [False, False, False, False, True, False, False]
    assert read(tmp_path / "out/_tirazh/steps/02-good/_dropped")["drop_reasons"].to_list() == [["min_chars"]]
    assert process.made == {"01-text": 7, "03-more": 6}
    assert [step["rows"] for step in manifest["steps"]] == [8, 7, 7]
    assert verify_output(str(tmp_path / "out")).problems == ()


def test_other_filters_are_another_job(
    process: InProcess, generate: Callable[..., GenerateSpec], tmp_path: Path
) -> None:
    run(generate(filters=[{"min_chars": 10}]))
    with pytest.raises(OutputError, match="another job"):
        run(generate(filters=[{"min_chars": 3}]))
    run(generate(filters=[{"min_chars": 3}], overwrite=True))
    assert read(tmp_path / "out")["id"].to_list() == [0, 1, 2, 3, 4, 6, 7]
    assert process.made == {"01-generate": 7}, "the completions are the same"
    assert verify_output(str(tmp_path / "out")).problems == ()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"filters": [{"min_chars": 10, "column": "titel"}]}, "there is not"),
        ({"filters": ["short-rus"]}, "did you mean short-ru"),
        ({"dedup": {"near": 0.8, "columns": ["completio"]}}, "did you mean"),
        ({"against": ("missing",)}, "missing"),
    ],
)
def test_wrong_rules_are_refused_before_anything_starts(
    settings: dict[str, Any], says: str, process: InProcess, generate: Callable[..., GenerateSpec], tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=says):
        run(generate(**settings))
    assert not (tmp_path / "out").exists()


def test_a_lost_dropped_file_is_found_and_made_again(
    process: InProcess, generate: Callable[..., GenerateSpec], tmp_path: Path
) -> None:
    run(generate(filters=[{"min_chars": 10}]))
    next((tmp_path / "out/_dropped").glob("*.parquet")).unlink()
    assert len(verify_output(str(tmp_path / "out")).problems) == 1
    run(generate(filters=[{"min_chars": 10}]))
    assert verify_output(str(tmp_path / "out")).problems == ()
