"""Files of an input that are not read are named and counted: on the screen, in the plan and in the manifest."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pipeline.without_ray import run_without_ray
from tirazh.errors import InputError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.forecast.dry_run import dry_run
from tirazh.pipeline.input.listing.files import find_inputs, list_inputs, would_read
from tirazh.pipeline.input.listing.passed_over import NO_SUFFIX, say_passed_over
from tirazh.pipeline.output.leases import lease as lease_module
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.storage.filesystem import Storage
from tirazh.pipeline.storage.listing import PassedOver

Write = Callable[..., Path]


@pytest.fixture
def mixed(write_input: Write) -> Path:
    """A directory with one file that is read and two that are not."""
    for name in ("b", "c.parquet.gzip"):
        write_input(name, text=["lost"])
    return write_input("a.parquet", text=["x"]).parent


def test_a_job_says_and_stores_what_it_passed_over(
    mixed: Path, tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_without_ray(monkeypatch)
    monkeypatch.setattr(lease_module, "RACE_WINDOW_S", 0.0)
    spec = ClassifySpec(
        input=(str(mixed),),
        output=str(tmp_path / "out"),
        model=str(model_dir),
        labels={"sport": "спорт", "economics": "экономика"},
        dtype="float32",
    )
    line = f"2 files were passed over: b, c.parquet.gzip ({NO_SUFFIX})"
    assert dry_run(spec, plan_job(spec))["notes"] == [line]
    told: list[str] = []
    manifest = run_job(spec, tell=told.append)
    assert (manifest["rows"], manifest["passed_over"], told[0]) == (1, [line], line)
    assert verify(spec.output).problems == ()
    # The glob that the line names reads them.
    assert run_job(replace(spec, input=(f"{mixed}/*",), output=f"{spec.output}2"))["rows"] == 3


def test_a_directory_of_files_without_a_suffix_is_refused_with_the_pattern_that_reads_them(write_input: Write) -> None:
    for name in ("000000_0", "000001_0"):
        root = write_input(name, text=["x"]).parent
    with pytest.raises(InputError, match=r"2 × no suffix\); 000000_0 is a Parquet file .*, '.*/in/\*'$"):
        list_inputs(Storage(), [str(root)])
    assert [file.key for file in list_inputs(Storage(), [f"{root}/*"])] == ["000000_0", "000001_0"]


@pytest.mark.parametrize(("names", "pattern"), [(["d=1/0_0", "d=2/0_0"], "*/*"), (["d=1/0_0", "0_0"], "**/*")])
def test_the_pattern_for_files_in_directories_reads_them_too(
    names: list[str], pattern: str, write_input: Write, tmp_path: Path
) -> None:
    for name in names:
        write_input(name, text=["x"])
    with pytest.raises(InputError) as refused:
        list_inputs(Storage(), [str(tmp_path / "in")])
    assert str(refused.value).endswith(f"'{tmp_path}/in/{pattern}'")
    assert len(list_inputs(Storage(), [f"{tmp_path}/in/{pattern}"])) == 2


def test_a_directory_of_other_files_without_a_suffix_gets_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("all: everything else\n")
    with pytest.raises(InputError, match=r"\(it contains 1 × no suffix\)$"):
        list_inputs(Storage(), [str(tmp_path)])


def test_a_pattern_passes_over_what_is_not_parquet_but_reads_a_damaged_parquet_file(mixed: Path) -> None:
    (mixed / "readme.md").write_text("what is in these files")
    (mixed / "cut").write_bytes((mixed / "b").read_bytes()[:-10])
    listing = find_inputs(Storage(), [f"{mixed}/*"])
    assert [file.key for file in listing.files] == ["a.parquet", "b", "c.parquet.gzip", "cut"]
    assert listing.notes == ("1 file was passed over: readme.md (they are not Parquet)",)


def test_a_link_to_a_file_that_is_read_is_passed_over_whatever_is_named_first(write_input: Write) -> None:
    path = write_input("z.parquet", text=["x"])
    link = path.parent / "a.parquet"
    link.symlink_to("z.parquet")
    for inputs in ([path.parent], [link, path], [path, link]):
        listing = find_inputs(Storage(), list(map(str, inputs)))
        assert [file.key for file in listing.files] == ["z.parquet"]
        assert [each.uri for each in listing.passed_over] == [str(link)]
    assert [file.key for file in list_inputs(Storage(), [str(link)])] == ["a.parquet"]


def test_a_link_to_nothing_is_an_error_where_rows_may_be_missing(write_input: Write) -> None:
    root = write_input("a.parquet", text=["x"]).parent
    (root / "readme.md").symlink_to("gone.md")
    assert find_inputs(Storage(), [str(root)]).notes == (
        "1 file was passed over: readme.md (they are links to nothing)",
    )
    (root / "b.parquet").symlink_to("/archive/b.parquet")
    for named in (root, root / "b.parquet", root / "*.parquet"):
        with pytest.raises(InputError, match=r"in/b\.parquet is a link to /archive/b\.parquet, which does not exist"):
            list_inputs(Storage(), [str(named)])


def test_an_output_is_found_inside_the_input_also_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "in/out").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for pattern in ("in", "in/*", "in/**/*.parquet"):
        assert would_read(str(tmp_path / pattern), str(tmp_path / "link/out/part.parquet"))
        assert would_read(str(tmp_path / pattern.replace("in", "link", 1)), str(tmp_path / "in/out/part.parquet"))


def test_many_files_and_odd_names_fit_on_one_line() -> None:
    found = [PassedOver(f"/in/{name}", NO_SUFFIX) for name in ("a\nb", "x" * 300, *map(str, range(1_000)))]
    (line,) = say_passed_over(found)
    assert line.startswith("1,002 files were passed over: a\\nb, ")
    assert " and 999 more (" in line
    assert len(line) < 300
    assert os.linesep not in line
