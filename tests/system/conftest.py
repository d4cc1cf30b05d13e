"""Fixtures of the system tests: a tiny random model, news, prompts, a command line and its processes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY
from tests.system.command import end, read_rows, start_tirazh
from tests.system.tiny_model import write_tiny_model
from tirazh import generate

NEWS_ROWS = 240
DEMO_DATA = REPOSITORY / "jobs" / "demo_data"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a random 4-layer sparse model with a byte-level tokenizer."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def news() -> pa.Table:
    """Real headlines if the shared data exists, else the invented news of the demo; columns id and text."""
    shared = Path(os.environ.get("TIRAZH_SHARED") or REPOSITORY.parent / "shared") / "data/ru_news_lenta.test.parquet"
    if shared.is_file():
        return pq.read_table(shared, columns=["id", "text"]).slice(0, NEWS_ROWS)
    return read_demo("news.jsonl").select(["id", "text"])


@pytest.fixture(scope="session")
def prompts() -> pa.Table:
    """120 prompts of very different lengths; columns id and prompt."""
    texts = read_demo("prompts.jsonl")["prompt"].to_pylist()
    rows = [(f"row-{index:03d}", texts[index % len(texts)] + "," * (index % 17)) for index in range(120)]
    return pa.table({"id": [name for name, _ in rows], "prompt": [text for _, text in rows]})


SAMPLING: dict[str, Any] = {
    **{"max_new_tokens": 24, "temperature": 0.9, "top_p": 0.95, "repetition_penalty": 1.1, "seed": 7},
    **{"dtype": "float32", "threads": 1},
}


@pytest.fixture(scope="session")
def prompts_file(prompts: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.parquet"
    pq.write_table(prompts, path, row_group_size=50)
    return path


@pytest.fixture(scope="session")
def sampled_rows(
    prompts_file: Path, tiny_model: str, ray_local: None, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, object]]:
    """The rows of an undisturbed job over the prompts, with the settings `SAMPLING`."""
    output = tmp_path_factory.mktemp("sampled") / "out"
    manifest = generate(input=prompts_file, output=output, model=tiny_model, slots=8, part_rows=30, **SAMPLING)
    rows = read_rows(output)
    assert manifest["rows"] == len(rows) == pq.read_metadata(prompts_file).num_rows
    return rows


def read_demo(name: str) -> pa.Table:
    lines = (DEMO_DATA / name).read_text(encoding="utf-8").splitlines()
    return pa.Table.from_pylist([json.loads(line) for line in lines if line])


@pytest.fixture
def command(prompts: pa.Table, tiny_model: str, tmp_path: Path) -> Callable[..., list[object]]:
    """A job of many small parts; `command(output, **more)` returns the arguments of its command line."""
    pq.write_table(prompts, tmp_path / "prompts.parquet")
    flags = {"input": tmp_path / "prompts.parquet", "model": tiny_model, "max-new-tokens": 96, "temperature": 0.8}
    flags |= {"seed": 3, "part-rows": 8, "slots": 4, "dtype": "float32", "threads": 1}

    def make(output: object, **more: object) -> list[object]:
        named = {**flags, "output": output, **more}
        return ["generate", *(text for name, value in named.items() for text in (f"--{name.replace('_', '-')}", value))]

    return make


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts commands, and kills those that a failed test leaves running."""
    running: list[subprocess.Popen[str]] = []

    def begin(*arguments: object) -> subprocess.Popen[str]:
        running.append(start_tirazh(*arguments))
        return running[-1]

    yield begin
    for process in running:
        if process.poll() is None:
            end(process)
