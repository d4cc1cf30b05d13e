"""A complete output of 30 rows in three parts, and what the tests of its changes look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.output.conftest import MakeSpec
from tirazh.pipeline.build import run_job
from tirazh.pipeline.job_run import JobRun
from tirazh.pipeline.output.names import RUNS, OutputFiles
from tirazh.pipeline.spec import ClassifySpec

OLD = [f"text {n}" for n in range(30)]
LATE = [f"late {n}" for n in range(12)]


@pytest.fixture
def finished(make_spec: MakeSpec, job_output: OutputFiles) -> OutputFiles:
    """A complete output of 30 rows in three parts."""
    run_job(make_spec(output=job_output.directory))
    return job_output


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """A function that returns how many rows were asked for since the test began to count."""
    rows = 0
    make = JobRun.make

    def counting(run: JobRun, parts: list[Any]) -> dict[str, Any]:
        nonlocal rows
        rows += sum(part.rows for part in parts)
        return make(run, parts)

    monkeypatch.setattr(JobRun, "make", counting)
    return lambda: rows


def add_file(spec: ClassifySpec, name: str, texts: list[Any], **columns: Any) -> Path:
    """Write a file of the input; a column that is None is left out."""
    path = Path(spec.input[0]) / name
    values = {"text": texts, "topic": ["sport"] * len(texts), "desk": ["sport"] * len(texts)} | columns
    pq.write_table(pa.table({key: value for key, value in values.items() if value is not None}), path)
    return path


def parts_of(output: OutputFiles) -> dict[str, bytes]:
    """The part files."""
    return {name: output.storage.read(output.part(name)) for name in output.parts()}


def rows_of(output: OutputFiles) -> list[dict[str, Any]]:
    """The rows of an output, in order."""
    parts = parts_of(output)
    return [row for name in sorted(parts) for row in pq.read_table(pa.BufferReader(parts[name])).to_pylist()]


def texts_of(output: OutputFiles) -> list[str]:
    """The texts of an output, in order."""
    return [row["text"] for row in rows_of(output)]


def files_of(output: OutputFiles) -> dict[str, bytes]:
    """What a reader sees, and what tirazh knows about it, without the history of runs, which every run changes."""
    own = [name for name in output.storage.names(output.own()) if name != RUNS]
    return parts_of(output) | {name: output.storage.read(output.own(name)) for name in own}
