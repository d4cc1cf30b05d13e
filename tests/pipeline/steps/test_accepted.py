"""`accepted: N`: every cell ends with exactly N rows that pass, or the job says which do not and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.pipeline.steps.in_process import InProcess, KilledError, answer_with_seeds, kill_points
from tirazh.errors import JobError, RequestError
from tirazh.pipeline.spec import GenerateSpec
from tirazh.pipeline.steps.expand import steps_of
from tirazh.pipeline.steps.run import run_steps
from tirazh.pipeline.steps.verify import verify_output

WANTED = 10
# A completion has the digits of the row's seed: three of ten end with 0, 1 or 2.
THREE_OF_TEN = {"expression": "completion like '%0' or completion like '%1' or completion like '%2'", "name": "digit"}


@pytest.fixture
def generate(tmp_path: Path, model_dir: Path, process: InProcess) -> Callable[..., GenerateSpec]:
    process.answer = answer_with_seeds(str(model_dir))

    def make(**settings: Any) -> GenerateSpec:
        given: dict[str, Any] = {
            "vary": {"topic": ["лес", "река", "море"], "style": ["кратко", "подробно"]},
            "template": "{{ topic }}, {{ style }}:",
            "output": str(tmp_path / "out"),
            "model": str(model_dir),
            "dtype": "float32",
            "threads": 1,
            "part_rows": 25,
            "max_new_tokens": 30,
            "accepted": WANTED,
            "filters": [THREE_OF_TEN],
        }
        return GenerateSpec(**given | settings)

    return make


def run(spec: GenerateSpec) -> dict[str, Any]:
    steps = steps_of(spec)
    assert steps is not None
    return run_steps(steps)


def read(directory: Path) -> pl.DataFrame:
    return pl.read_parquet(f"{directory}/*.parquet")


def test_every_cell_ends_with_exactly_as_many_rows_as_are_wanted(
    process: InProcess, generate: Callable[..., GenerateSpec], tmp_path: Path
) -> None:
    manifest = run(generate())
    kept, dropped = read(tmp_path / "out"), read(tmp_path / "out/_dropped")
    # Of all rounds, not of the last one alone.
    assert sum(manifest["finish_reasons"].values()) == manifest["attempts"]
    assert sum(manifest["completion_lengths"].values()) == manifest["attempts"]
    counts = kept.group_by("topic", "style", maintain_order=True).len()
    assert counts["len"].to_list() == [WANTED] * 6
    assert counts["topic"].to_list() == ["лес", "лес", "река", "река", "море", "море"], "in the order of the cells"
    assert kept["completion"].str.contains("[012]$").all()
    assert len(kept) + len(dropped) == manifest["attempts"]
    assert 0.2 < len(kept) / manifest["attempts"] < 0.4
    assert manifest["rounds"] <= 4
    surplus = dropped.filter(pl.col("drop_reasons").list.contains("surplus"))
    assert surplus["completion"].str.contains("[012]$").all()
    assert verify_output(str(tmp_path / "out")).problems == ()


def test_the_rows_are_the_first_ones_of_a_job_with_as_many_rows_per_cell(
    process: InProcess, generate: Callable[..., GenerateSpec], tmp_path: Path
) -> None:
    run(generate())
    run(generate(accepted=None, per_cell=WANTED * 10, output=str(tmp_path / "plain")))
    cells = ["topic", "style"]
    first = read(tmp_path / "plain").group_by(cells, maintain_order=True).head(WANTED)
    assert read(tmp_path / "out").select(*cells, "completion").equals(first.select(*cells, "completion"))


@pytest.mark.parametrize("parts", kill_points([0, 1, 3, 5, 7, 9, 12, 15, 18, 21, 24], fast=(1, 9, 18)))
def test_a_job_that_is_killed_anywhere_ends_with_the_same_rows(
    parts: int, process: InProcess, generate: Callable[..., GenerateSpec], tmp_path: Path
) -> None:
    run(generate(output=str(tmp_path / "undisturbed"), dedup="exact"))
    process.made.clear()
    process.kill_after = parts
    with pytest.raises(KilledError):
        run(generate(dedup="exact"))
    process.kill_after = None
    manifest = run(generate(dedup="exact"))
    for directory in ("", "/_dropped"):
        assert read(Path(f"{tmp_path}/out{directory}")).equals(read(Path(f"{tmp_path}/undisturbed{directory}")))
    assert sum(process.made.values()) == manifest["attempts"], "no attempt is made twice"
    assert verify_output(str(tmp_path / "out")).problems == ()


def test_a_second_run_makes_nothing(process: InProcess, generate: Callable[..., GenerateSpec]) -> None:
    first = run(generate())
    made = dict(process.made)
    assert run(generate()) == first
    assert process.made == made


def test_cells_that_fall_short_are_named_with_their_reasons_and_more_attempts_go_on(
    process: InProcess, generate: Callable[..., GenerateSpec], tmp_path: Path
) -> None:
    no_sea = {"expression": "topic <> 'море' or completion like '%0'", "name": "no_sea"}
    settings: dict[str, Any] = {"filters": [THREE_OF_TEN, no_sea]}
    with pytest.raises(JobError, match=r"cells have fewer than 10 accepted rows after 40 attempts: topic=море.*no_sea"):
        run(generate(**settings, max_attempts=4))
    assert read(tmp_path / "out").filter(pl.col("topic") != "море").group_by("topic").len()["len"].to_list() == [20, 20]
    assert verify_output(str(tmp_path / "out")).problems == ()
    before = read(tmp_path / "out")
    with pytest.raises(JobError, match="fewer than 10"):
        run(generate(**settings, max_attempts=4))
    run(generate(**settings, max_attempts=100))
    after = read(tmp_path / "out")
    assert after.group_by("topic", "style").len()["len"].to_list() == [WANTED] * 6
    assert before.join(after, on=["topic", "style", "completion"], how="anti").is_empty()
    assert verify_output(str(tmp_path / "out")).problems == ()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"samples": 2}, "--accepted and --samples"),
        ({"accepted": 0}, "--accepted must be at least 1"),
        ({"dropped": "inline"}, "--accepted and --dropped inline"),
        ({"limit": 5}, "--accepted and --limit"),
    ],
)
def test_settings_with_which_attempts_cannot_be_counted_are_refused(
    settings: dict[str, Any], says: str, process: InProcess, generate: Callable[..., GenerateSpec]
) -> None:
    with pytest.raises(RequestError, match=says):
        generate(**settings)
