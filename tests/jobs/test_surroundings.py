"""The command in unusual surroundings: a project directory full of common names, variables of Python, no directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# Python itself imports types, typing, re and enum before the command begins: `python -m anything` fails with these.
COMMON_NAMES = (
    *("model", "pipeline", "jobs", "actors", "json", "random", "yaml", "argparse", "logging", "difflib", "tempfile"),
    *("numpy", "pyarrow", "polars", "torch", "ray", "transformers", "tokenizers", "jinja2", "fsspec", "utils", "test"),
    *("socket", "queue", "signal", "string", "copy", "uuid", "secrets", "platform", "inspect", "dataclasses", "http"),
)


def tirazh(*words: str, cwd: Path, flags: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
    command = [sys.executable, *flags, "-m", "tirazh", *words]
    return subprocess.run(command, cwd=cwd, env=given, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory whose files end the process that imports one of them."""
    for name in COMMON_NAMES:
        (tmp_path / f"{name}.py").write_text("import os; os._exit(77)")
    for name in ("torch", "ray", "pipeline"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("import os; os._exit(77)")
    return tmp_path


@pytest.mark.parametrize("search_path", [str(REPOSITORY), f":{REPOSITORY}"], ids=["plain", "with an empty entry"])
def test_nothing_is_imported_from_the_working_directory(search_path: str, project: Path) -> None:
    done = tirazh("verify", ".", cwd=project, PYTHONPATH=search_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("tirazh: ")


def test_a_package_in_the_working_directory_is_run_from_there(tmp_path: Path) -> None:
    """A submitted job has the package beside its job file."""
    (tmp_path / "tirazh").symlink_to(REPOSITORY / "tirazh")
    done = tirazh("--version", cwd=tmp_path, PYTHONPATH="")
    assert done.returncode == 0, done.stderr


VARIABLES: tuple[dict[str, str], ...] = (
    {"PYTHONWARNINGS": "error"},
    {"PYTHONOPTIMIZE": "2"},
    {"PYTHONHASHSEED": "0"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"TZ": "Moon/Base"},
    {"OMP_NUM_THREADS": "garbage"},
    {"COLUMNS": "wide", "TERM": "", "NO_COLOR": "1"},
    {"TMPDIR": "/no/such/directory"},
)


@pytest.mark.parametrize(
    "variables",
    [
        # All in one process; most of them alone are slow.
        pytest.param({name: value for each in VARIABLES for name, value in each.items()}, id="all"),
        pytest.param({"COLUMNS": "1"}, id="COLUMNS=1"),
        *(pytest.param(each, id=" ".join(each), marks=pytest.mark.slow) for each in VARIABLES),
    ],
)
def test_variables_of_the_environment_do_not_change_the_ending(variables: dict[str, str], tmp_path: Path) -> None:
    done = tirazh("verify", "нигде", cwd=tmp_path, **variables)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_without_docstrings_ray_cannot_run_and_the_request_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_bytes(b"no Parquet")
    words = ("classify", "--input", "text.parquet", "--output", "out", "--labels", "a,b")
    done = tirazh(*words, cwd=tmp_path, flags=("-OO",))
    assert done.returncode == 2
    assert "-OO" in done.stderr


def test_a_working_directory_that_was_deleted_is_named(tmp_path: Path) -> None:
    command = f"mkdir gone && cd gone && rmdir ../gone && exec {sys.executable} -m tirazh verify out"
    given = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=given, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "the working directory does not exist any more" in done.stderr


def test_the_help_of_a_narrow_terminal_names_every_flag(tmp_path: Path) -> None:
    wide, narrow = (tirazh("classify", "--help", cwd=tmp_path, COLUMNS=columns).stdout for columns in ("120", "40"))
    flags = {word.strip("[],") for word in wide.split() if word.startswith("--")}
    assert {flag for flag in flags if flag not in narrow} == set()
