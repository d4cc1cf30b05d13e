"""A resume after the input has changed: finished rows are kept wherever they are still the rows of the input."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.without_ray import run_without_ray
from tirazh.errors import OutputError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.spec import ClassifySpec

PARTS = 4  # of a.parquet the first two, of b.parquet the others


@pytest.fixture
def spec(
    write_input: Callable[..., Path], tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> ClassifySpec:
    run_without_ray(monkeypatch)
    for name in "ab":
        write_input(f"{name}.parquet", text=[f"{name}{row}" for row in range(4)])
    return ClassifySpec(
        input=(str(tmp_path / "in"),),
        output=str(tmp_path / "out"),
        model=str(model_dir),
        labels={"sport": "sport", "economics": "economics"},
        part_rows=2,
    )


def run(spec: ClassifySpec) -> list[str]:
    """Run the job and return the lines that it told."""
    lines: list[str] = []
    run_job(spec, tell=lines.append)
    return lines


def make_unfinished(spec: ClassifySpec, *missing: int) -> dict[str, bytes]:
    """Run the job and remove some parts; return the bytes of the others."""
    run(spec)
    (Path(spec.output) / "_SUCCESS").unlink()
    for part in missing:
        part_file(spec, part).unlink()
    return parts(spec)


def part_file(spec: ClassifySpec, index: int) -> Path:
    return next(Path(spec.output).glob(f"part-{index:05d}-*.parquet"))


def parts(spec: ClassifySpec) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(spec.output).glob("part-*.parquet"))}


def texts(spec: ClassifySpec) -> list[str]:
    return [text for name in parts(spec) for text in pq.read_table(Path(spec.output) / name)["text"].to_pylist()]


def input_file(spec: ClassifySpec, name: str) -> Path:
    return Path(spec.input[0]) / name


def write(path: Path, values: list[str]) -> None:
    pq.write_table(pa.table({"text": values}), path)


ALL_TEXTS = [f"{name}{row}" for name in "ab" for row in range(4)]


@pytest.mark.parametrize("missing", [(2, 3), (1, 2)], ids=["other file", "same file"])
def test_a_touched_input_is_continued_with_the_same_plan(spec: ClassifySpec, missing: tuple[int, ...]) -> None:
    before = make_unfinished(spec, *missing)
    for name in ("a.parquet", "b.parquet"):
        os.utime(input_file(spec, name), (1, 1))
    (line,) = run(spec)
    assert "were written again since the job started; the rows of the finished parts are the same" in line
    assert parts(spec).items() >= before.items()
    assert len(parts(spec)) == PARTS, "all parts have the id of the stored plan"
    assert texts(spec) == ALL_TEXTS
    assert verify(spec.output).problems == ()


def test_an_input_of_the_same_rows_in_another_file_is_continued(spec: ClassifySpec) -> None:
    make_unfinished(spec, 1)
    table = pq.read_table(input_file(spec, "a.parquet"))
    pq.write_table(table, input_file(spec, "a.parquet"), compression="zstd", row_group_size=1)
    run(spec)
    assert texts(spec) == ALL_TEXTS


def test_a_touched_input_of_a_complete_output_needs_nothing(spec: ClassifySpec) -> None:
    run(spec)
    before = parts(spec)
    os.utime(input_file(spec, "a.parquet"), (1, 1))
    assert "a.parquet was written again since the job started" in run(spec)[0]
    assert parts(spec) == before


@pytest.mark.parametrize("keeps_time", [False, True], ids=["new time", "time set back"])
def test_an_edited_row_of_a_finished_part_is_refused_and_named(spec: ClassifySpec, keeps_time: bool) -> None:
    before = make_unfinished(spec, 2, 3)
    path = input_file(spec, "a.parquet")
    status = path.stat()
    write(path, ["a0", "a1", "A2", "a3"])
    assert path.stat().st_size == status.st_size
    if keeps_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(OutputError, match=rf"{path} has changed since part-00001.* row 2 differs in column 'text'"):
        run(spec)
    assert parts(spec) == before


def test_an_edited_row_of_a_part_that_is_not_finished_is_read_as_it_is_now(spec: ClassifySpec) -> None:
    make_unfinished(spec, 1)
    write(input_file(spec, "a.parquet"), ["a0", "a1", "A2", "a3"])
    run(spec)
    assert texts(spec)[:4] == ["a0", "a1", "A2", "a3"]
    assert verify(spec.output).problems == ()


def test_other_columns_and_other_numbers_of_rows_are_refused(spec: ClassifySpec) -> None:
    make_unfinished(spec, 3)
    write(input_file(spec, "a.parquet"), ["a0", "a1", "a2", "a3", "a4"])
    with pytest.raises(OutputError, match=r"a\.parquet has changed since the job started: it has 5 rows instead of 4"):
        run(spec)
    for name in "ab":
        columns = {"text": [f"{name}{row}" for row in range(4)], "more": range(4)}
        pq.write_table(pa.table(columns), input_file(spec, f"{name}.parquet"))
    with pytest.raises(OutputError, match=r"the columns of the input file .*a\.parquet have changed"):
        run(spec)


def test_a_file_that_was_archived_after_its_parts_were_finished_is_not_needed(spec: ClassifySpec) -> None:
    before = make_unfinished(spec, 2, 3)
    input_file(spec, "a.parquet").unlink()
    (line,) = run(spec)
    assert "a.parquet was removed since the job started, after all parts were finished" in line
    assert parts(spec).items() >= before.items()
    assert texts(spec) == ALL_TEXTS
    assert verify(spec.output, skip_input=True).problems == ()


def test_a_file_that_was_removed_too_early_is_refused(spec: ClassifySpec) -> None:
    before = make_unfinished(spec, 3)
    input_file(spec, "b.parquet").unlink()
    with pytest.raises(OutputError, match=r"b\.parquet has been removed .* and 1 of its 2 parts are not finished"):
        run(spec)
    assert parts(spec) == before


def test_an_added_file_does_not_stop_an_unfinished_output(spec: ClassifySpec) -> None:
    make_unfinished(spec, 3)
    write(input_file(spec, "0-late.parquet"), ["late"])
    (line,) = run(spec)
    assert "0-late.parquet was added since the job started and is not in this output" in line
    assert texts(spec) == ALL_TEXTS


def test_an_added_file_beside_a_complete_output_is_refused(spec: ClassifySpec) -> None:
    run(spec)
    before = parts(spec)
    write(input_file(spec, "late.parquet"), ["late"])
    with pytest.raises(OutputError, match=r"is complete, and the input file .*late\.parquet was added .* nothing was"):
        run(spec)
    assert parts(spec) == before
    run(replace(spec, overwrite=True))
    assert texts(spec) == [*ALL_TEXTS, "late"]


def test_with_overwrite_a_changed_input_is_another_job(spec: ClassifySpec) -> None:
    run(spec)
    write(input_file(spec, "a.parquet"), ["A0", "A1", "A2", "A3"])
    run(replace(spec, overwrite=True))
    assert texts(spec)[:4] == ["A0", "A1", "A2", "A3"]
    assert verify(spec.output).problems == ()


def test_an_added_file_that_takes_the_limit_does_not_look_like_a_removal(spec: ClassifySpec) -> None:
    limited = replace(spec, limit=6)
    make_unfinished(limited, 2)
    write(input_file(limited, "0.parquet"), [str(number) for number in range(10)])
    (line,) = run(limited)
    assert "0.parquet was added" in line
    assert texts(limited) == ALL_TEXTS[:6]


def test_the_same_files_named_otherwise_are_the_same_input(spec: ClassifySpec) -> None:
    """A directory, a glob pattern, and the files one by one."""
    before = make_unfinished(spec, 1)
    directory = spec.input[0]
    for named in ((f"{directory}/*.parquet",), (f"{directory}/a.parquet", f"{directory}/b.parquet"), (directory,)):
        assert run(replace(spec, input=named)) == []
        assert {name: parts(spec)[name] for name in before} == before
        assert not verify(spec.output).problems
    with pytest.raises(OutputError, match=r"another job: --input differs"):
        run(replace(spec, input=(f"{directory}/a.parquet",)))
