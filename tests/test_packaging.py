"""The wheel holds one package, and the user's own modules are never executed in place of ours.

Ray puts the driver's working directory first on the path of every worker. A project directory with
its own `model.py` or `pipeline/` must therefore neither break a job nor have its code executed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.packages import build, copy_tracked_files, environment, install, install_backend, write_traps


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_backend(tmp_path_factory.mktemp("backend"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_tracked_files(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def wheel(source: Path, backend: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(source, "wheel", tmp_path_factory.mktemp("wheel"), backend=backend)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in a directory of its own, beside another distribution whose top-level package is `jobs`."""
    folder = install(wheel, tmp_path_factory.mktemp("installed"))
    write_traps(folder / "jobs", folder / "executed-other-distribution")
    (folder / "jobs/__init__.py").write_text((folder / "jobs/model.py").read_text())
    (folder / "jobs-1.0.dist-info").mkdir()
    (folder / "jobs-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: jobs\nVersion: 1.0\n")
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project: data, and modules that have the names of our folders."""
    write_traps(tmp_path, tmp_path / "executed")
    texts = ["Команда выиграла матч.", "Курс рубля вырос.", "The team won the final."]
    pq.write_table(pa.table({"text": texts}), tmp_path / "news.parquet")
    return tmp_path


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_one_package_with_weights_kernels_and_demo_data(wheel: Path) -> None:
    names = list(contents(wheel))
    assert len(names) == len(set(names))
    assert {name.split("/")[0] for name in names} == {"tirazh", "tirazh-0.1.0.dist-info"}
    for expected in (
        *("tirazh/py.typed", "tirazh/jobs/demo_data/news.jsonl", "tirazh/jobs/demo_data/labels.yaml"),
        *("tirazh/model/embedded/model.safetensors", "tirazh/model/embedded/tokenizer.json"),
        *("tirazh/model/kernels/decode_attention.c", "tirazh/model/kernels/tiles.h"),
        *(f"tirazh/{folder}/__init__.py" for folder in ("model", "actors", "pipeline", "jobs")),
    ):
        assert expected in names
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name]


def test_the_source_distribution_builds_the_same_wheel(
    source: Path, wheel: Path, backend: Path, tmp_path: Path
) -> None:
    with tarfile.open(build(source, "sdist", tmp_path, backend=backend)) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert contents(build(unpacked, "wheel", tmp_path, backend=backend)) == contents(wheel)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("start", ["script", "module"])
def test_a_job_in_a_directory_with_modules_of_our_names_runs_and_executes_none_of_them(
    start: str, project: Path, installed: Path
) -> None:
    command = ["-m", "tirazh"] if start == "module" else [str(installed / "bin/tirazh")]
    done = subprocess.run(
        [
            *(sys.executable, *command, "classify", "--input", "news.parquet", "--output", "labelled", "--json"),
            *("--labels", "sport,economics", "--dtype", "float32", "--threads", "1"),
        ],
        cwd=project,
        env=os.environ | environment(installed),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 3
    assert not (project / "executed").exists()
    assert not (installed / "executed-other-distribution").exists()


def test_the_installed_package_is_the_one_that_runs(project: Path, installed: Path) -> None:
    code = "import tirazh.jobs.cli, tirazh.model.config as config; print(tirazh.__file__, config.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        env=os.environ | environment(installed),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(installed / "tirazh/__init__.py"), str(installed / "tirazh/model/config.py")]
    assert not (project / "executed").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_the_demo_runs_from_the_installed_package(project: Path, installed: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(installed / "bin/tirazh"), "demo", "--json"],
        cwd=project,
        env=os.environ | environment(installed),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 60
    assert not (project / "executed").exists()
