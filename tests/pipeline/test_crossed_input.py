"""Jobs in which every row of an input is crossed with every cell: the same rows in any parts and after a resume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.pipeline.test_crossing_job import seeds_as_texts
from tests.pipeline.without_ray import run_without_ray
from tirazh.errors import RequestError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.spec import GenerateSpec

VARY: dict[str, Any] = {"style": ["plain", "lively", "formal"], "size": [1, 2]}
Make = Callable[..., GenerateSpec]
Run = Callable[[GenerateSpec], pl.DataFrame]


@pytest.fixture
def make(tmp_path: Path, model_dir: Path, write_input: Callable[..., Path]) -> Make:
    write_input("a.parquet", title=["sport", "art", "sport", "x"], id=[0, 1, 2, 3], row_group_size=3)
    write_input("b.parquet", title=["art", "new"], id=[4, 5])

    def spec(name: str = "out", **settings: Any) -> GenerateSpec:
        given: dict[str, Any] = {
            "input": (str(tmp_path / "in"),),
            "vary": VARY,
            "per_cell": 2,
            "template": "{{ title }}, {{ style }}, {{ size }}",
            "max_new_tokens": 4,
        }
        return GenerateSpec(output=str(tmp_path / name), model=str(model_dir), **(given | settings))

    return spec


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    run_without_ray(monkeypatch, seeds_as_texts)

    def rows(spec: GenerateSpec) -> pl.DataFrame:
        run_job(spec)
        assert verify(spec.output).problems == ()
        return pl.read_parquet(f"{spec.output}/*.parquet")

    return rows


def test_every_input_row_has_every_cell_so_many_times_beside_its_columns(make: Make, run: Run) -> None:
    rows = run(make())
    assert rows.columns[:4] == ["title", "id", "style", "size"]
    assert len(rows) == 6 * 6 * 2
    assert set(Counter(zip(rows["id"], rows["style"], rows["size"], strict=True)).values()) == {2}
    assert rows["id"].to_list() == [number for number in range(6) for _ in range(12)]
    assert rows["completion"].n_unique() == len(rows)
    assert len(run(make("once", per_cell=None))) == 36


@pytest.mark.parametrize("part_rows", [1, 5, 12, 100])
def test_the_rows_are_the_same_in_parts_of_any_size(make: Make, run: Run, part_rows: int) -> None:
    assert run(make(part_rows=part_rows)).equals(run(make("other")))


def test_new_values_and_new_input_rows_leave_the_others_as_they_were(
    make: Make, run: Run, write_input: Callable[..., Path]
) -> None:
    old = set(run(make()).drop("id").rows())
    write_input("c.parquet", title=["later"], id=[6])
    new = run(make("new", vary=VARY | {"style": ["new", *VARY["style"]]}, per_cell=3)).drop("id")
    assert {row for row in new.rows() if row[:3] != ("later",)} >= {row for row in old if row[0] in ("x", "new")}
    more = run(make("more", vary=VARY | {"style": ["new", *VARY["style"]]})).drop("id")
    assert set(more.filter(pl.col("style") != "new", pl.col("title") != "later").rows()) == old


def test_the_order_of_the_files_changes_no_row(make: Make, run: Run, tmp_path: Path) -> None:
    names = [str(tmp_path / "in" / name) for name in ("b.parquet", "a.parquet")]
    reversed_rows = run(make("reversed", input=tuple(names))).drop("id")
    assert set(reversed_rows.rows()) == set(run(make()).drop("id").rows())


def test_rows_are_those_of_a_file_with_the_same_columns(make: Make, run: Run, write_input: Callable[..., Path]) -> None:
    """Equal rows of a file exchange their numbers if the cells of a file row stand together, so titles differ here."""
    crossed = run(make(input=(str(write_input("one/d.parquet", title=["a", "b"])),)))
    path = write_input("two/e.parquet", **{name: crossed[name].to_list() for name in ("title", *VARY)})
    assert run(make("file", vary=None, per_cell=None, input=(str(path),))).equals(crossed)


def test_a_lost_part_is_made_again(make: Make, run: Run) -> None:
    spec = make(part_rows=7)
    before = run(spec)
    parts = sorted(Path(spec.output).glob("*.parquet"))
    data = parts[3].read_bytes()
    parts[3].unlink()
    assert run(spec).equals(before)
    assert parts[3].read_bytes() == data


def test_a_file_with_other_rows_is_found_and_its_row_is_named(
    make: Make, run: Run, write_input: Callable[..., Path]
) -> None:
    spec = make(part_rows=7)
    run(spec)
    write_input("b.parquet", title=["art", "old"], id=[4, 5])
    assert "b.parquet has changed since the job ran: row 1 differs in column 'title'" in verify(spec.output).problems[0]
    write_input("b.parquet", title=["art"], id=[4])
    with pytest.raises(RequestError, match="it has 1 rows instead of 2"):
        run(spec)


def test_limit_counts_the_rows_of_the_job(make: Make, run: Run) -> None:
    rows = run(make())
    assert run(make("few", limit=30)).equals(rows.head(30))


def test_samples_are_rows_of_every_cell(make: Make, run: Run) -> None:
    rows = run(make(samples=2, per_cell=1))
    assert len(rows) == 6 * 6 * 2
    assert rows["sample"].to_list() == [0, 1] * 36


def test_parts_are_small_however_many_cells_a_row_has(make: Make) -> None:
    plan = plan_job(make(vary={"style": [str(number) for number in range(5_000)]}, template="{{ title }} {{ style }}"))
    assert plan.rows == 6 * 10_000
    assert max(part.rows for part in plan.parts) < 2_000
    assert plan.summary()["files"] == 2


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rows": 5, "per_cell": None}, "--rows is not used with --input and --vary"),
        ({"accepted": 5, "per_cell": None}, "--accepted is not used with --input and --vary"),
        ({"vary": VARY | {"Title": ["x"]}}, "--vary names 'Title', and the input has a column 'title'"),
        ({"template": "{{ style }}"}, "--template uses only names of --vary and no column of the input"),
        (
            {"template": "{{ titel }}"},
            "'titel', which is not a column of the input or a name of --vary; did you mean title",
        ),
    ],
)
def test_what_cannot_be_crossed_is_refused(make: Make, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        plan_job(make(**settings))
