"""`tirazh history`, `tirazh status OUTPUT` and `tirazh prune`: tables for people, lines of JSON for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.conftest import model_dir, write_input
from tests.pipeline.history.test_state import set_age
from tests.pipeline.output.conftest import MakeSpec, make_spec, no_ray
from tirazh.errors import JobError
from tirazh.jobs.cli import main
from tirazh.jobs.outputs.history_text import history_text
from tirazh.pipeline.build import run_job
from tirazh.pipeline.job_run import JobRun
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.storage.filesystem import Storage

__all__ = ["make_spec", "model_dir", "no_ray", "write_input"]
pytestmark = pytest.mark.usefixtures("no_ray")


@pytest.fixture
def nights(make_spec: MakeSpec, tmp_path: Path) -> Path:
    """Three nights, of which the last one failed."""
    for night in ("23", "24"):
        run_job(make_spec(output=str(tmp_path / "labelled" / night)))
    run_job(make_spec(output=str(tmp_path / "labelled" / "24")))
    with pytest.MonkeyPatch.context() as patch:

        def fail(*arguments: Any) -> None:
            raise JobError("the cluster \x1b[31mis gone")

        patch.setattr(JobRun, "make", fail)
        with pytest.raises(JobError):
            run_job(make_spec(output=str(tmp_path / "labelled" / "25")))
    return tmp_path / "labelled"


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_history_is_a_table_of_all_runs_of_all_outputs(nights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", str(nights / "*")]) == 0
    lines = said(capsys).splitlines()
    assert lines[0].split() == ["begin", "(UTC)", "outcome", "rows", "errors", "took", "forecast", "host", "output"]
    assert [line.split()[2] for line in lines[1:5]] == ["success", "success", "success", "failure"]
    assert [" 30 of 30 " in line for line in lines[1:4]] == [True, True, False]
    assert "0 of 30" in lines[3]
    assert "failure (1)" in lines[4]
    assert lines[5] == "  the cluster \ufffd[31mis gone"


def test_history_shows_the_forecast_beside_the_time_where_a_run_had_one() -> None:
    run = {"begin": "2026-11-23T01:30:00Z", "end": "2026-11-23T01:30:31Z", "outcome": "success", "output": "out"}
    run |= {"seconds_wall": 31.0, "rows_made": 5, "rows_total": 5}
    text = history_text([run | {"predicted": {"time_s": [20, 58], "tokens": 900}}, run | {"predicted": None}])
    assert text.splitlines()[0].split()[-4:] == ["took", "forecast", "host", "output"]
    assert [line.split()[-3:-1] for line in text.splitlines()[1:]] == [["0:31", "0:20-0:58"], ["0", "0:31"]]


def test_history_as_json_has_one_run_a_line(nights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", str(nights / "24"), str(nights / "2[45]"), "--json"]) == 0
    runs = [json.loads(line) for line in said(capsys).splitlines()]
    assert [(Path(run["output"]).name, run["rows_made"]) for run in runs] == [("24", 30), ("24", 0), ("25", 0)]


@pytest.mark.parametrize(("name", "says"), [("26", "is not the output of a job"), ("3*", "no output of a job matches")])
def test_history_of_nothing_is_refused(nights: Path, capsys: pytest.CaptureFixture[str], name: str, says: str) -> None:
    assert main(["history", str(nights / name)]) == 2
    assert says in capsys.readouterr().err


def test_status_of_an_output_asks_no_cluster(
    nights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert main(["status", str(nights / "23"), "--max-age", "26h"]) == 0
    text = said(capsys)
    assert "state         complete" in text
    assert "30 of 30 in finished parts" in text
    assert main(["status", str(nights / "25")]) == 1
    assert "the cluster" in said(capsys)
    assert main(["status", str(nights / "26"), "--json"]) == 1
    found = json.loads(said(capsys))
    assert (found["state"], found["exit_code"]) == ("missing", 1)


def test_status_is_a_switch_for_a_dead_man(nights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_age(OutputFiles(Storage(), str(nights / "23")), 27)
    assert main(["status", str(nights / "23"), "--max-age", "26h", "-q"]) == 1
    assert "the last success is 27.0 h old, and --max-age is 26.0 h" in capsys.readouterr().err
    assert main(["status", str(nights / "23"), "--max-age", "28h"]) == 0
    assert main(["status", str(nights / "23"), "--max-age", "tomorrow"]) == 2


def test_prune_prints_what_it_removes_and_keeps(nights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_age(OutputFiles(Storage(), str(nights / "23")), 31 * 24)
    assert main(["prune", str(nights), "--keep", "30d", "--dry-run"]) == 0
    dry = said(capsys).splitlines()
    assert dry[0] == f"would remove {nights / '23'} (31.0 d old)"
    assert dry[1].endswith(": it is young enough")
    assert dry[2].endswith(": it is not complete")
    assert dry[3] == "1 to remove, 2 kept"
    assert (nights / "23" / "_SUCCESS").exists()
    assert main(["prune", str(nights), "--keep", "30d", "--json"]) == 0
    found = [json.loads(line) for line in said(capsys).splitlines()]
    assert [each["removed"] for each in found] == [True, False, False]
    assert sorted(path.name for path in nights.iterdir()) == ["24", "25"]


def test_prune_needs_an_age(nights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", str(nights)]) == 2
    assert "--keep" in capsys.readouterr().err
