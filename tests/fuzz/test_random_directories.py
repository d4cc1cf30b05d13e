"""Random input directories: planning refuses them in one sentence, or reads every Parquet file in them once.

What every reader takes (a visible name with a Parquet suffix, not behind a link) is never left out, and no row is
counted that is not in one of the files of the plan.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.fuzz.ending import attempt
from tests.fuzz.random_directories import make_directory
from tirazh.pipeline.plan import Plan, plan_job
from tirazh.pipeline.spec import JobSpec

FEW, MANY = range(40), range(1_000, 1_400)
# How the directory is named: as it is, with a slash, as a pattern, as a link, and with `.` in the path.
WAYS = ("{}", "{}/", "{}/**/*.parquet", "{}-link", "{}/./")


def plan_and_check(seed: int, job: Callable[..., JobSpec], tmp_path: Path) -> str:
    """Plan a job over the directory of `seed`, and check the plan. Returns the sentence of a refusal."""
    root = tmp_path / "in"
    expected = make_directory(seed, root)
    (tmp_path / "in-link").symlink_to(root)
    found: list[Plan] = []
    way = WAYS[seed % len(WAYS)].format(glob.escape(str(root)) if "*" in WAYS[seed % len(WAYS)] else root)
    sentence = attempt("random directories", (seed, way), lambda: found.append(plan_job(job(input=way))))
    if sentence:
        assert str(root) in sentence or "column" in sentence, sentence
        return sentence
    (plan,) = found
    real = [os.path.realpath(planned.file.uri) for planned in plan.files]
    assert len(real) == len(set(real)), "a file is read twice"
    missing = {os.path.realpath(path) for path in expected} - set(real)
    assert not missing, f"left out without a word: {missing}"
    rows = {path: pq.read_metadata(path).num_rows for path in real}
    assert plan.rows == sum(rows.values())
    keys = [planned.file.key for planned in plan.files]
    assert len(keys) == len(set(keys)), "two files have the same key, so their rows get the same random numbers"
    return ""


@pytest.mark.parametrize("seed", FEW)
def test_a_random_directory_is_refused_or_read_completely(
    seed: int, job: Callable[..., JobSpec], tmp_path: Path
) -> None:
    plan_and_check(seed, job, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", MANY)
def test_more_random_directories_are_refused_or_read_completely(
    seed: int, job: Callable[..., JobSpec], tmp_path: Path
) -> None:
    plan_and_check(seed, job, tmp_path)
