"""The ready jobs in examples/: each is previewed on the embedded model, in this process, by the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tirazh.jobs.job_files.job_file import spec_from_file
from tirazh.jobs.planning import plan_facts

JOBS = sorted([*(REPOSITORY / "examples/ru").glob("*.yaml"), *(REPOSITORY / "examples/en").glob("*.yaml")])
USES = {"continuation", "dialogue", "recommendation", "topics-zero-shot", "topics-one-shot", "topics-few-shot"}


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def preview(path: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tirazh", "preview", str(path.relative_to(REPOSITORY)), "--rows", "3", "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_every_use_of_the_models_page_has_a_job_in_both_languages() -> None:
    for language in ("ru", "en"):
        assert {path.stem for path in JOBS if path.parent.name == language} >= USES


@pytest.mark.parametrize("path", JOBS, ids=name_of)
def test_a_job_can_be_planned_and_names_its_own_command(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    output = REPOSITORY / f"out/{path.parent.name}-{path.stem.split('-')[0]}"
    assert plan_facts(spec_from_file(path))["output"].startswith(str(output))
    commands = re.findall(r"^# (tirazh .*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) == 1
    assert commands[0].endswith(str(path.relative_to(REPOSITORY)))


@pytest.mark.slow
@pytest.mark.parametrize("path", JOBS, ids=name_of)
def test_a_job_makes_rows_on_the_embedded_model(path: Path) -> None:
    made = preview(path)["rows"]
    assert len(made) == 3
    errors = [output.get("error") for row in made for output in row["output"]]
    # JSON of a small model may be cut at the limit of tokens, which is an error of its row.
    assert all(error is None or error.startswith("unfinished") for error in errors), errors
