"""Every local command and every Python block of the tutorials runs, in order, with the embedded model."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY
from tests.docs.texts import fenced_blocks
from tirazh.jobs.demo import DATA

TUTORIALS = REPOSITORY / "docs/tutorials"
NEEDS_A_CLUSTER = ("s3://", "--address")


def run_tutorial(path: Path, folder: Path, *, before_python: Callable[[], object] = lambda: None) -> None:
    """Write the tutorial's job file into `folder`, then run its local commands and its Python blocks there."""
    (job,) = fenced_blocks(path, "yaml")
    (folder / f"{path.stem}.yaml").write_text(job, encoding="utf-8")
    for block in fenced_blocks(path, "bash"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if not any(mark in line for mark in NEEDS_A_CLUSTER):
                run(["-m", "tirazh.jobs.cli", *words[1:]], folder)
    before_python()
    for code in fenced_blocks(path, "python"):
        run(["-c", code], folder)


def run(arguments: list[str], folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"


def write_table(path: Path, columns: dict[str, list[str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.fixture(scope="module")
def news() -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATA / "news.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.timeout(900)
@pytest.mark.ray
@pytest.mark.slow
def test_the_nightly_tutorial_runs(news: list[dict[str, str]], tmp_path: Path) -> None:
    texts = [row["text"] for row in news]
    write_table(tmp_path / "news/monday.parquet", {"text": texts[:20]})

    def put_labelled() -> None:
        """The output of the night on the cluster, which is not run here."""
        write_table(tmp_path / "labelled/part.parquet", {"label": ["sport"], "error": [""]})

    write_table(tmp_path / "gold.parquet", {"text": texts[:20], "topic": [row["label"] for row in news[:20]]})
    run_tutorial(TUTORIALS / "nightly.md", tmp_path, before_python=put_labelled)
    assert pq.read_table(tmp_path / "trial").num_rows == 10
    manifest = json.loads((tmp_path / "gold-labelled/_tirazh/manifest.json").read_text(encoding="utf-8"))
    assert 0 < manifest["accuracy"] <= 1


@pytest.mark.timeout(900)
@pytest.mark.ray
@pytest.mark.slow
def test_the_synthetic_tutorial_runs(news: list[dict[str, str]], tmp_path: Path) -> None:
    write_table(tmp_path / "topics.parquet", {"topic": ["спорт", "наука", "культура"]})
    write_table(tmp_path / "texts-selected.parquet", {"text": [row["text"] for row in news]})
    write_table(tmp_path / "prompts.parquet", {"prompt": ["Учёные обнаружили, что"]})
    run_tutorial(TUTORIALS / "synthetic.md", tmp_path)
    assert pq.read_table(tmp_path / "texts")["sample"].to_pylist() == [0, 1, 2, 3] * 3
    assert pq.read_table(tmp_path / "out").num_rows == 1
