"""Deduplication keeps the same rows on a cluster of two nodes, on one node, and in a plain loop."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import REPOSITORY
from tests.pipeline.quality.dedup.found import slowly
from tests.pipeline.quality.dedup.two_nodes import job, kept
from tirazh.pipeline.steps.expand import steps_of
from tirazh.pipeline.steps.run import run_steps

pytestmark = [pytest.mark.ray, pytest.mark.slow]

WORDS = [f"{first}{second}" for first in ("слово", "word", "mot", "ord") for second in "абвгдежзик"]


def _texts(count: int) -> list[str]:
    """Titles of which about a third are copies of earlier ones, half of these with one word changed."""
    chance = random.Random(5)
    texts: list[str] = []
    for _ in range(count):
        words = chance.sample(WORDS, 24)
        if texts and chance.random() < 0.35:
            words = chance.choice(texts).split()
            if chance.random() < 0.5:
                words[chance.randrange(len(words))] = "другое"
        texts.append(" ".join(words))
    return texts


@pytest.mark.usefixtures("ray_local")
def test_the_same_rows_stay_on_one_and_on_two_nodes(tmp_path: Path, model_dir: Path) -> None:
    texts = _texts(1000)
    pl.DataFrame({"id": range(len(texts)), "prompt": texts}).write_parquet(tmp_path / "in.parquet")
    command = [sys.executable, "-m", "tests.pipeline.quality.dedup.two_nodes", str(tmp_path), str(model_dir)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["nodes"] == 2
    assert report["tasks"] > 16, "the tasks ran on Ray"
    steps = steps_of(job(tmp_path, "one", str(model_dir)))
    assert steps is not None
    run_steps(steps, engine="echo")
    assert report["kept"] == kept(tmp_path / "one")
    # The engine answers with the prompt, cut to 64 tokens, so the texts that are compared are the completions.
    rows = pl.concat(pl.read_parquet(f"{tmp_path}/one{folder}/*.parquet") for folder in ("", "/_dropped"))
    completions = rows.sort("id")["completion"].to_list()
    dropped = slowly(completions)
    assert report["kept"] == [row for row in range(len(texts)) if row not in dropped]
