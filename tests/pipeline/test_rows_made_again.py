"""A row depends on its content alone, and can be made again from its own columns. With the embedded model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.without_ray import run_without_ray, with_the_model
from tirazh.pipeline.build import run_job
from tirazh.pipeline.input.overrides import row_seed, sample_seed
from tirazh.pipeline.spec import GenerateSpec

TOPICS = [f"тема {n}: {word}" for n, word in enumerate(("спорт", "наука", "культура", "экономика") * 3)]
Row = dict[str, Any]
Make = Callable[..., list[Row]]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """`make(FILES, **settings)` runs a job over files of rows and returns the rows of its output."""
    run_without_ray(monkeypatch, with_the_model)
    jobs = iter(range(100))

    def run(files: Sequence[list[Row]], **settings: Any) -> list[Row]:
        folder = tmp_path / f"job-{next(jobs)}"
        (folder / "in").mkdir(parents=True)
        for number, rows in enumerate(files):
            pq.write_table(pa.Table.from_pylist(rows), folder / f"in/{number:03}.parquet")
        chosen = {
            "template": "Новость на тему «{{ topic }}». Заголовок:",
            "max_new_tokens": 8,
            "slots": 8,
            "dtype": "float32",
        }
        spec = GenerateSpec(input=(str(folder / "in"),), output=str(folder / "out"), **(chosen | settings))
        run_job(spec)
        return [row for part in sorted((folder / "out").glob("*.parquet")) for row in pq.read_table(part).to_pylist()]

    return run


def texts(rows: Sequence[Row]) -> dict[str, str]:
    return {row["topic"]: row["completion"] for row in rows}


@pytest.mark.slow
def test_rows_stay_the_same_in_another_order_in_other_files_and_alone(make: Make) -> None:
    rows = [{"topic": topic} for topic in TOPICS]
    first = texts(make([rows]))
    assert len(first) == len(set(first.values())) == 12
    assert texts(make([rows[::-1]])) == first
    assert texts(
        make([rows[2 * n : 2 * n + 2] for n in range(6)] + [[{"topic": "ещё одна"}]], part_rows=1)
    ) | first == (texts(make([[*rows, {"topic": "ещё одна"}]])))
    for row in rows:
        assert texts(make([[row]])) == {row["topic"]: first[row["topic"]]}


@pytest.mark.slow
def test_a_row_is_made_again_from_the_prompt_and_the_seed_that_it_keeps(make: Make) -> None:
    rows = make([[{"topic": topic} for topic in TOPICS]], samples=2, keep=("prompt", "seed"))
    assert list(rows[0])[:5] == ["topic", "sample", "prompt", "seed", "completion"]
    assert rows[0]["prompt"] == "Новость на тему «тема 0: спорт». Заголовок:"
    assert len({row["seed"] for row in rows}) == len({row["completion"] for row in rows}) == 24
    again = make([[{"prompt": row["prompt"], "seed": row["seed"]}] for row in rows[::-1]], template=None)
    assert [row["completion"] for row in again] == [row["completion"] for row in rows[::-1]]


def test_a_prompt_that_was_cut_is_kept_as_it_was_cut(make: Make) -> None:
    long = {"topic": "слово " * 200}
    settings: Row = {"truncate": "left", "seq_length": 64, "keep": ("prompt", "seed")}
    (row,) = make([[long]], **settings)
    assert len(row["prompt"]) < 500
    (again,) = make([[{"prompt": row["prompt"], "seed": row["seed"]}]], template=None, seq_length=64)
    assert again["completion"] == row["completion"]


CHAT = "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}бот:"


def test_a_conversation_is_a_prompt_and_its_content_gives_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_without_ray(monkeypatch)
    turns = [[{"role": "я", "content": "Привет"}], [{"role": "я", "content": "Пока"}, {"role": "бот", "content": "!"}]]
    swapped = [[dict(reversed(turn.items())) for turn in row] for row in turns]
    seeds = []
    for name, rows in (("one", [*turns, turns[0]]), ("two", [*swapped[::-1], swapped[0]])):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"messages": rows}), tmp_path / name / "a.parquet")
        out, settings = str(tmp_path / f"{name}-out"), {"keep": ("prompt", "seed"), "dtype": "float32"}
        run_job(GenerateSpec(input=(str(tmp_path / name),), output=out, template=CHAT, **settings))
        (part,) = Path(out).glob("*.parquet")
        table = pq.read_table(part)
        assert sorted(set(table["prompt"].to_pylist())) == ["я: Пока\nбот: !\nбот:", "я: Привет\nбот:"]
        assert table["error"].null_count == 3
        seeds.append(table["seed"].to_pylist())
    assert len(set(seeds[0])) == 3
    assert seeds[1] == [seeds[0][1], seeds[0][0], seeds[0][2]]


def test_a_seed_that_a_row_has_is_its_seed() -> None:
    def seed(own: int) -> int:
        return row_seed({"seed": own}, job_seed=3, content="a", repetition=1)

    assert [seed(own) for own in (0, 7, 2**63 - 1)] == [0, 7, 2**63 - 1]
    assert all(0 <= seed(own) < 2**63 for own in (-1, -(2**63)))
    assert (sample_seed(7, 0), sample_seed(7, 1) == sample_seed(7, 2)) == (7, False)
