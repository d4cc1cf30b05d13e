"""A job of four steps that is killed with -9 in each of them: every row is made exactly once."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.system.command import end, part_files, run_tirazh, wait_until

STEPS = ("_tirazh/steps/01-title", "_tirazh/steps/02-body", "_tirazh/steps/03-topic", "")
ROWS = 64
# Each start of Ray and of replicas takes a minute where other tests run at the same time.
TIMEOUT_S = 600
# Reached when the first files of the step are there.
FIRST_FILES = (*STEPS[:3], "_tirazh/judged")


@pytest.fixture
def job_file(prompts: pa.Table, tiny_model: str, tmp_path: Path) -> Callable[[str], Path]:
    """Writes the job file for an output directory."""
    pq.write_table(prompts, tmp_path / "prompts.parquet")

    def write(output: str) -> Path:
        values: dict[str, Any] = {
            "kind": "steps",
            "input": str(tmp_path / "prompts.parquet"),
            "output": str(tmp_path / output),
            "model": tiny_model,
            **{
                "dtype": "float32",
                "threads": 1,
                "slots": 4,
                "part_rows": 8,
                "seed": 3,
                "temperature": 0.8,
                "limit": ROWS,
            },
            "steps": [
                {"name": "title", "kind": "generate", "max_new_tokens": 40},
                {
                    "name": "body",
                    "kind": "generate",
                    "template": "{{ id }} {{ title_completion }}:",
                    "max_new_tokens": 48,
                },
                {
                    "name": "topic",
                    "kind": "classify",
                    "text_column": "body_completion",
                    "labels": {"a": "да", "b": "нет"},
                },
                {"name": "good", "kind": "filter", "filters": [{"max_chars": 42}], "dedup": "near"},
            ],
            "columns": ["id", "title_completion", "body_completion", "topic_label", "drop_reasons"],
        }
        path = tmp_path / f"{output}.yaml"
        path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
        return path

    return write


def state_of(output: Path) -> dict[str, tuple[int, int]]:
    """Modification time and inode of every part of every step."""
    return {f"{step}/{name}": state for step in STEPS for name, state in part_files(output / step).items() if step}


def read(output: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    return pl.read_parquet(f"{output}/*.parquet"), pl.read_parquet(f"{output}/_dropped/*.parquet")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_a_job_that_is_killed_in_each_step_makes_every_row_once(
    job_file: Callable[[str], Path], start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    done = run_tirazh("run", job_file("undisturbed"), timeout_s=TIMEOUT_S)
    assert done.returncode == 0, done.stderr

    output, command = tmp_path / "out", ("run", job_file("out"))
    written: dict[str, tuple[int, int]] = {}
    for place in FIRST_FILES:
        process = start(*command)
        wait_until(lambda: len(list((output / place).glob("part-*.parquet"))) >= 2, timeout_s=TIMEOUT_S, what=place)  # noqa: B023
        end(process)
        assert not (output / "_SUCCESS").exists()
        now = state_of(output)
        assert {name: now.get(name) for name in written} == written, "a finished part was written again"
        written = now
    assert run_tirazh("verify", output).returncode == 1
    done = run_tirazh(*command, timeout_s=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    assert {name: state_of(output)[name] for name in written} == written

    for rows, expected in zip(read(output), read(tmp_path / "undisturbed"), strict=True):
        assert rows.equals(expected)
    kept, dropped = read(output)
    assert kept.columns == ["id", "title_completion", "body_completion", "topic_label", "drop_reasons"]
    assert len(dropped), "the filter drops nothing"
    assert sorted([*kept["id"], *dropped["id"]]) == [f"row-{row:03d}" for row in range(ROWS)]
    verified = run_tirazh("verify", output)
    assert verified.returncode == 0, verified.stdout + verified.stderr
