"""Models and tables that the system tests share: a tiny random model, news (real ones where they are), prompts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY
from tests.system.tiny_model import write_tiny_model

NEWS_ROWS = 240
DEMO_DATA = REPOSITORY / "jobs" / "demo_data"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a random 4-layer sparse model with a byte-level tokenizer."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def news() -> pa.Table:
    """Real headlines where the shared data is, else the demo's invented news; columns id and text."""
    shared = Path(os.environ.get("TIRAZH_SHARED") or REPOSITORY.parent / "shared") / "data/ru_news_lenta.test.parquet"
    if shared.is_file():
        return pq.read_table(shared, columns=["id", "text"]).slice(0, NEWS_ROWS)
    return read_demo("news.jsonl").select(["id", "text"])


@pytest.fixture(scope="session")
def prompts() -> pa.Table:
    """120 prompts of very different length; columns id and prompt."""
    texts = read_demo("prompts.jsonl")["prompt"].to_pylist()
    rows = [(f"row-{index:03d}", texts[index % len(texts)] + "," * (index % 17)) for index in range(120)]
    return pa.table({"id": [name for name, _ in rows], "prompt": [text for _, text in rows]})


def read_demo(name: str) -> pa.Table:
    lines = (DEMO_DATA / name).read_text(encoding="utf-8").splitlines()
    return pa.Table.from_pylist([json.loads(line) for line in lines if line])
