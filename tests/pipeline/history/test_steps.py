"""The history of a job of several steps: one line a run, whose rows are those of its steps with a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.steps.conftest import process
from tests.pipeline.steps.in_process import InProcess, KilledError
from tests.pipeline.steps.test_run import job, run
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.runs_file import Run, read_runs
from tirazh.pipeline.storage.filesystem import Storage

__all__ = ["job", "process"]
Job = Callable[..., dict[str, Any]]
ROWS = 30  # 10 in each of three steps


def runs_of(folder: Path) -> list[Run]:
    return read_runs(OutputFiles(Storage(), str(folder / "out")))


def test_the_rows_of_all_steps_are_in_one_line(process: InProcess, job: Job, tmp_path: Path) -> None:
    manifest = run(job())
    (first,) = runs_of(tmp_path)
    assert (first["command"], first["outcome"], first["rows_made"], first["rows_total"]) == ("steps", "success", 30, 30)
    assert manifest["begin"] == first["begin"] <= manifest["end"] <= first["end"]
    run(job())
    assert [(each["rows_made"], each["rows_total"]) for each in runs_of(tmp_path)] == [(ROWS, ROWS), (0, ROWS)]
    assert not (tmp_path / "out/_tirazh/steps/01-title/_tirazh/runs.jsonl").exists()


@pytest.mark.parametrize("error", [KilledError(), KeyboardInterrupt()])
@pytest.mark.parametrize("parts", [0, 2, 4, 7])
def test_the_rows_of_an_interrupted_run_and_of_the_next_one_add_up(
    process: InProcess, job: Job, tmp_path: Path, parts: int, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.kill_after = parts
    make = process.part_made

    def end() -> None:
        try:
            make()
        except KilledError:
            raise error from None

    monkeypatch.setattr(process, "part_made", end)
    with pytest.raises(type(error)):
        run(job())
    process.kill_after = None
    run(job())
    runs = runs_of(tmp_path)
    assert [each["outcome"] for each in runs] == [
        "unknown" if isinstance(error, KilledError) else "interrupted",
        "success",
    ]
    assert sum(each["rows_made"] for each in runs) == ROWS
    assert sum(each["parts_made"] for each in runs) == 9
