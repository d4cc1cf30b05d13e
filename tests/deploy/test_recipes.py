"""deploy/recipes/: the scripts of a night, and cron, systemd, Airflow and Dagster, each run as it is written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY
from tests.deploy.programs import venv_with, write_program
from tests.docs.planned import skip_while_missing
from tests.jobs.clusters import Head, ray_head
from tirazh.jobs.demo import DATA
from tirazh.jobs.job_files.job_file import spec_from_file

RECIPES = REPOSITORY / "deploy/recipes"
ROWS = 6


def yesterday() -> date:
    return (datetime.now(UTC) - timedelta(days=1)).date()


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """The folder /srv/tirazh of the recipes, with the news of the last two days, which are the same."""
    folder = tmp_path / "srv"
    shutil.copytree(RECIPES, folder)
    texts = [json.loads(line)["text"] for line in (DATA / "news.jsonl").read_text(encoding="utf-8").splitlines()]
    for days in (0, 1):
        news = folder / f"news/{yesterday() - timedelta(days=days)}/part.parquet"
        news.parent.mkdir(parents=True)
        pq.write_table(pa.table({"text": texts[:ROWS]}), news)
    return folder


def real_tirazh(folder: Path) -> Path:
    """Put the command `tirazh` of this checkout into a folder."""
    write_program(folder / "tirazh", f'PYTHONPATH={REPOSITORY} exec {sys.executable} -m tirazh "$@"\n')
    return folder


def recording_tirazh(folder: Path, codes: dict[str, int]) -> Path:
    """Put a `tirazh` into a folder that records its arguments and ends with the code of its first one."""
    cases = "".join(f"{command}) exit {code};; " for command, code in codes.items())
    write_program(folder / "tirazh", f'echo "$*" >> {folder}/calls\ncase $1 in {cases}esac\n')
    return folder


def in_place(text: str, service: Path, programs: Path) -> str:
    """Replace the two directories that the recipes name."""
    return text.replace("/srv/tirazh", str(service)).replace("/opt/tirazh/bin", str(programs))


def cron(service: Path, programs: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run the line of the crontab with this script as cron does: almost no environment, in another directory."""
    text = in_place((service / "crontab").read_text(), service, programs)
    settings = dict(re.findall(r"^([A-Z]+)=(.*)$", text, flags=re.MULTILINE))
    (line,) = re.findall(rf"^(?:\S+\s+){{5}}tirazh\s+(.*{script}.*)$", text, flags=re.MULTILINE)
    command = ["env", "-i", f"PATH={settings['PATH']}", "SHELL=/bin/sh", "/bin/sh", "-c", line]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)


def systemd(service: Path, programs: Path) -> subprocess.CompletedProcess[str]:
    """Run ExecStart of the service with its environment and in its directory."""
    unit = in_place((service / "tirazh-night.service").read_text(), service, programs)
    settings = dict(re.findall(r"^(\w+)=(.*)$", unit, flags=re.MULTILINE))
    command = ["env", "-i", settings["Environment"], settings["ExecStart"]]
    return subprocess.run(command, cwd=settings["WorkingDirectory"], capture_output=True, text=True, check=False)


def test_the_job_of_the_recipes_is_valid() -> None:
    assert spec_from_file(RECIPES / "nightly.yaml").output


def test_a_night_is_labelled_compared_with_earlier_nights_and_then_old_ones_are_removed(
    service: Path, tmp_path: Path
) -> None:
    programs = recording_tirazh(tmp_path / "bin", {})
    for day in ("2026-11-21", "2026-11-22", "2026-11-23", "2026-11-24"):
        (service / "labelled" / day).mkdir(parents=True)
        (service / "labelled" / day / "_SUCCESS").touch()
    (service / "labelled/2026-11-22/_SUCCESS").unlink()
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([service / "night.sh", "2026-11-23"], env=environment, cwd="/", check=True)
    assert (programs / "calls").read_text().splitlines() == [
        "run nightly.yaml --set date=2026-11-23",
        "report labelled/2026-11-23 --against labelled/2026-11-21 --fail-on labels>0.1",
        "prune labelled --keep 30d",
    ]


@pytest.mark.parametrize(("failing", "code", "steps"), [("run", 2, 1), ("run", 1, 1), ("report", 3, 2)])
def test_a_night_ends_with_the_exit_code_of_its_first_failed_step(
    failing: str, code: int, steps: int, service: Path, tmp_path: Path
) -> None:
    """Nothing is removed after a night that failed, or whose labels differ."""
    programs = recording_tirazh(tmp_path / "bin", {failing: code})
    for day in (yesterday(), yesterday() - timedelta(days=1)):
        (service / f"labelled/{day}").mkdir(parents=True)
        (service / f"labelled/{day}/_SUCCESS").touch()
    assert cron(service, programs, "night.sh").returncode == code
    (programs / "calls").unlink()
    assert systemd(service, programs).returncode == code
    assert len((programs / "calls").read_text().splitlines()) == steps


def test_the_units_of_systemd_are_valid(service: Path, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("needs systemd-analyze")
    for name in ("tirazh-night.service", "tirazh-night.timer"):
        (service / name).write_text(in_place((service / name).read_text(), service, tmp_path))
        done = subprocess.run(
            ["systemd-analyze", "verify", service / name], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.timeout(1800)
@pytest.mark.ray
@pytest.mark.slow
def test_two_nights_of_cron_and_systemd_are_labelled_compared_and_checked(service: Path, tmp_path: Path) -> None:
    skip_while_missing("run", "--set")
    skip_while_missing("report", "--fail-on")
    skip_while_missing("prune", "--keep")
    skip_while_missing("status", "--max-age")
    programs = real_tirazh(tmp_path / "bin")
    before = yesterday() - timedelta(days=1)
    unfinished = cron(service, programs, "morning.sh")
    assert unfinished.returncode == 1, unfinished.stderr
    environment = {"PATH": f"{programs}:/usr/bin:/bin"}
    first = subprocess.run([service / "night.sh", str(before)], env=environment, cwd="/", check=False)
    assert first.returncode == 0
    done = cron(service, programs, "night.sh")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    again = systemd(service, programs)
    assert again.returncode == 0, again.stderr
    for day in (before, yesterday()):
        assert pq.read_table(service / f"labelled/{day}").num_rows == ROWS
    checked = cron(service, programs, "morning.sh")
    assert checked.returncode == 0, checked.stderr


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(num_cpus=2) as started:
        yield started


def with_orchestrator(head: Head, service: Path, programs: Path, **variables: str) -> dict[str, str]:
    """The environment of an orchestrator's process: the token, and where the job and the cluster are."""
    path = f"{programs}{os.pathsep}{head.environment['PATH']}"
    addresses = {"TIRAZH_JOB": f"{service}/nightly.yaml", "TIRAZH_ADDRESS": head.address}
    return head.environment | addresses | {"PATH": path} | variables


def answered_rows(service: Path) -> int:
    rows: int = pq.read_table(service / f"labelled/{yesterday()}").num_rows
    return rows


@pytest.mark.timeout(1800)
@pytest.mark.ray
@pytest.mark.slow
def test_airflow_runs_the_night_on_a_cluster(
    head: Head, service: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    skip_while_missing("submit", "--set")
    python = venv_with("apache-airflow==3.3.2", tmp_path_factory)
    environment = with_orchestrator(
        *(head, service, real_tirazh(tmp_path / "bin")),
        AIRFLOW_HOME=str(tmp_path / "airflow"),
        AIRFLOW__CORE__DAGS_FOLDER=str(service),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
    )
    subprocess.run([python.parent / "airflow", "db", "migrate"], env=environment, check=True, capture_output=True)
    done = subprocess.run(
        [python, service / "airflow_night.py"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert answered_rows(service) == ROWS


@pytest.mark.timeout(1800)
@pytest.mark.ray
@pytest.mark.slow
def test_dagster_materializes_the_night_on_a_cluster(
    head: Head, service: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    skip_while_missing("submit", "--set")
    python = venv_with("dagster==1.13.29", tmp_path_factory)
    environment = with_orchestrator(head, service, real_tirazh(tmp_path / "bin"))
    done = subprocess.run(
        [python, service / "dagster_night.py"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert answered_rows(service) == ROWS


@pytest.mark.parametrize("name", ["airflow_night.py", "dagster_night.py"])
def test_a_recipe_of_an_orchestrator_compiles(name: str) -> None:
    compile((RECIPES / name).read_text(encoding="utf-8"), name, "exec")
