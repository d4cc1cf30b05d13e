"""Every local command and Python block of the tutorials and how-to pages runs, in order, with the embedded model."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY
from tests.docs.planned import missing, planned_flags, skip_while_missing
from tests.docs.texts import fenced_blocks
from tirazh.jobs.demo import DATA

TUTORIALS = REPOSITORY / "docs/tutorials"
NEEDS_A_CLUSTER = ("s3://", "--address")


def run_document(path: Path, folder: Path, before: dict[str, Callable[[], object]] | None = None) -> None:
    """Write the job file of a page into `folder`, then run its local commands and its Python blocks there, in order.

    `before` has functions that are called at the beginning of the sections that they are named after. Commands that
    this version does not have are left out, and the test is then skipped at its end.
    """
    for job in fenced_blocks(path, "yaml"):
        if job.startswith("# "):
            (folder / job.splitlines()[0].removeprefix("# ")).write_text(job, encoding="utf-8")
    left_out: list[str] = []
    for section in re.split(r"^(?=## )", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
        for title, prepare in (before or {}).items():
            if section.startswith(f"## {title}"):
                prepare()
        for arguments in local_commands(section):
            lacking = [] if arguments[0] == "-c" else missing(arguments[2], *planned_flags(arguments[2:]))
            left_out += lacking
            if not lacking:
                run(arguments, folder)
    if left_out:
        pytest.skip(f"all other commands of the page ran; not in this version: {', '.join(sorted(set(left_out)))}")


def local_commands(section: str) -> Iterator[list[str]]:
    """Yield the arguments of Python for every command of a section that needs no cluster, and every Python block."""
    for language, block in re.findall(r"^```(bash|python)\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE):
        if language == "python":
            yield ["-c", block]
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if not any(mark in line for mark in NEEDS_A_CLUSTER):
                yield ["-m", "tirazh.jobs.cli", *shlex.split(line, comments=True)[1:]]


def run(arguments: list[str], folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"


def write_table(path: Path, columns: dict[str, list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.fixture(scope="module")
def news() -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATA / "news.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def nights(news: list[dict[str, str]], tmp_path: Path) -> Path:
    """A folder with the news of three days, which are the same, so that no day differs from the others."""
    texts = [row["text"] for row in news[:20]]
    for day in (22, 23, 24):
        write_table(tmp_path / f"news/2026-11-{day}/part.parquet", {"text": texts})
    write_table(tmp_path / "gold.parquet", {"text": texts, "topic": [row["label"] for row in news[:20]]})
    return tmp_path


def add_late_file(folder: Path) -> Callable[[], None]:
    return lambda: write_table(folder / "news/2026-11-23/late.parquet", {"text": ["Цены на нефть выросли", "Матч"]})


@pytest.mark.timeout(1800)
@pytest.mark.ray
@pytest.mark.slow
def test_the_nightly_tutorial_runs(nights: Path) -> None:
    skip_while_missing("run", "--set")
    run_document(TUTORIALS / "nightly.md", nights, {"4. Late data": add_late_file(nights)})
    assert pq.read_table(nights / "trial").num_rows == 10
    manifest = json.loads((nights / "gold-labelled/_tirazh/manifest.json").read_text(encoding="utf-8"))
    assert 0 < manifest["accuracy"] <= 1
    assert pq.read_table(nights / "labelled/2026-11-23").num_rows == 22
    assert pq.read_table(nights / "labelled/2026-11-24").num_rows == 20


@pytest.mark.timeout(1800)
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in (REPOSITORY / "docs/how-to").glob("*.md")))
def test_a_how_to_page_runs(name: str, nights: Path) -> None:
    """Each begins with the finished nights of 22, 23 and 24 November, except for the page that makes one."""
    path = REPOSITORY / "docs/how-to" / f"{name}.md"
    if not fenced_blocks(path, "bash"):
        pytest.skip("the page has no commands")
    skip_while_missing("run", "--set")
    if name == "late-data":
        run_document(path, nights)
        return
    job = 'kind: classify\ninput: "news/{day}/*.parquet"\noutput: "labelled/{day}"\nlabels: [sport, economics]\n'
    (nights / "night.yaml").write_text(job.replace("{day}", "{{ date }}"))
    (nights / "job.yaml").write_text(job.replace("{day}", "2026-11-24"))
    for day in (22, 23, 24):
        run(["-m", "tirazh.jobs.cli", "run", "night.yaml", "--set", f"date=2026-11-{day}"], nights)
    run_document(path, nights)


@pytest.mark.timeout(900)
@pytest.mark.ray
@pytest.mark.slow
def test_the_synthetic_tutorial_runs(news: list[dict[str, str]], tmp_path: Path) -> None:
    write_table(tmp_path / "topics.parquet", {"topic": ["спорт", "наука", "культура"]})
    write_table(tmp_path / "texts-selected.parquet", {"text": [row["text"] for row in news]})
    write_table(tmp_path / "prompts.parquet", {"prompt": ["Учёные обнаружили, что"]})
    run_document(TUTORIALS / "synthetic.md", tmp_path)
    assert pq.read_table(tmp_path / "texts")["sample"].to_pylist() == [0, 1, 2, 3] * 3
    assert pq.read_table(tmp_path / "out").num_rows == 1
