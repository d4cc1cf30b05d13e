"""A dry run says what the run would do with its output, refuses what the run refuses, and changes nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.without_ray import run_without_ray
from tirazh.errors import OutputError
from tirazh.jobs.cli import main
from tirazh.pipeline.build import run_job
from tirazh.pipeline.forecast.dry_run import dry_run
from tirazh.pipeline.output.leases.lease import hold
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.storage.filesystem import Storage


@pytest.fixture
def spec(
    write_input: Callable[..., Path], tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> ClassifySpec:
    run_without_ray(monkeypatch)
    write_input("a.parquet", text=["x y z"] * 10)
    return ClassifySpec(
        input=(str(tmp_path / "in"),),
        output=str(tmp_path / "out"),
        model=str(model_dir),
        labels={"sport": "sport", "economics": "economics"},
        part_rows=4,
    )


def dry_run_of(spec: ClassifySpec) -> dict[str, Any]:
    before = tree(Path(spec.output))
    found = dry_run(spec, plan_job(spec))
    assert tree(Path(spec.output)) == before, "a dry run changes nothing"
    return found


def tree(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*")} | {"exists": int(folder.exists())}


def make_unfinished(spec: ClassifySpec) -> None:
    run_job(spec)
    out = Path(spec.output)
    (out / "_SUCCESS").unlink()
    sorted(out.glob("part-*"))[1].unlink()


def test_a_new_output(spec: ClassifySpec) -> None:
    found = dry_run_of(spec)
    assert (found["output_state"], found["would"], found["held_by"]) == ("new", "start a new output", None)
    assert not Path(spec.output).exists()


def test_an_unfinished_output(spec: ClassifySpec) -> None:
    make_unfinished(spec)
    found = dry_run_of(spec)
    assert (found["output_state"], found["finished_parts"]) == ("unfinished", 2)
    assert found["would"] == "resume: 2 of 3 parts (6 of 10 rows) are finished"


def test_a_complete_output(spec: ClassifySpec) -> None:
    run_job(spec)
    found = dry_run_of(replace(spec, overwrite=True, part_rows=5))
    assert (found["output_state"], found["would"]) == ("complete", "do nothing: the output is complete")
    assert found["notes"][0].startswith("--overwrite has nothing to replace")
    assert found["notes"][1].startswith("--part-rows 5 has no effect")


def test_only_the_last_step_is_missing(spec: ClassifySpec) -> None:
    run_job(spec)
    (Path(spec.output) / "_SUCCESS").unlink()
    assert dry_run_of(spec)["would"].startswith("make no part: all are finished")


def test_the_output_of_another_job(spec: ClassifySpec) -> None:
    run_job(spec)
    other = replace(spec, calibrate="contextual", template="News: {{ text }}")
    with pytest.raises(OutputError) as of_dry_run:
        dry_run_of(other)
    with pytest.raises(OutputError) as of_run:
        run_job(other)
    assert str(of_dry_run.value) == str(of_run.value)
    assert "another job: --calibrate, --template differ" in str(of_dry_run.value)
    found = dry_run_of(replace(other, overwrite=True))
    assert found["output_state"] == "another job"
    assert found["would"].startswith("replace the output of another job (10 rows, complete) once the new output is")


def test_files_that_tirazh_did_not_write(spec: ClassifySpec) -> None:
    Path(spec.output).mkdir()
    (Path(spec.output) / "mine.csv").write_text("x")
    with pytest.raises(OutputError, match=r"contains files that tirazh did not write \(mine.csv\)"):
        dry_run_of(spec)


def test_an_output_that_another_run_holds(spec: ClassifySpec) -> None:
    make_unfinished(spec)
    output = OutputFiles(Storage(), spec.output)
    with hold(output, lease_s=60.0):
        assert f"process {os.getpid()} on " in str(dry_run(spec, plan_job(spec))["held_by"])
    assert dry_run_of(spec)["held_by"] is None


def test_a_changed_input(spec: ClassifySpec, write_input: Callable[..., Path]) -> None:
    make_unfinished(spec)
    os.utime(Path(spec.input[0]) / "a.parquet", (1, 1))
    write_input("b.parquet", text=["new"])
    found = dry_run_of(spec)
    assert found["finished_parts"] == 2
    assert "written again since the job started; the rows of the finished parts are the same" in found["notes"][0]
    assert "b.parquet was added since the job started and is not in this output" in found["notes"][1]


def test_the_command_line_says_the_same(spec: ClassifySpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_unfinished(spec)
    flags = ["--input", spec.input[0], "--output", spec.output, "--model", spec.model, "--labels", "sport,economics"]
    assert main(["classify", "--dry-run", "--endpoint-url", "http://127.0.0.1:1", *flags]) == 0
    text = capsys.readouterr().out
    assert "resume: 2 of 3 parts (6 of 10 rows) are finished" in text
    assert "note: --endpoint-url has no effect" in text
    assert main(["classify", "--dry-run", "--json", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["output_state"] == "unfinished"
    assert main(["classify", "--dry-run", "--calibrate", *flags]) == 2
    assert "contains the output of another job: --calibrate differs" in capsys.readouterr().err
    shutil.rmtree(spec.output)
    assert main(["classify", "--dry-run", "-q", *flags]) == 0
    assert not Path(spec.output).exists()
