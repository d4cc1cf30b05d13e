"""The examples: the tokenizer they train, and the new model that training starts from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer

from model.load import load_pretrained
from model.tokenizer import load_tokenizer
from tests.conftest import REPOSITORY
from tests.system.conftest import read_demo

SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]


@pytest.fixture(scope="module")
def news(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("news") / "news.parquet"
    texts = read_demo("news.jsonl")["text"].to_pylist()
    pq.write_table(pa.table({"text": [*texts, None, ""]}), path)
    return path


def run_example(name: str, *arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "examples" / name), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def made(news: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "model"
    flags = ["--vocab-size", 800, "--layers", 2, "--hidden-size", 32, "--heads", 4, "--positions", 256]
    run_example("new_model.py", "--data", news, "--out", folder, *flags)
    return folder


def test_the_same_texts_give_the_same_tokenizer(news: Path, made: Path, tmp_path: Path) -> None:
    """In another process, with other hashing, to the last byte."""
    run_example("tokenizer_training.py", "--data", news, "--out", tmp_path, "--vocab-size", 800)
    assert (tmp_path / "tokenizer.json").read_bytes() == (made / "tokenizer.json").read_bytes()


def test_special_tokens_come_first_and_end_a_text(made: Path) -> None:
    rust = Tokenizer.from_file(str(made / "tokenizer.json"))
    assert [rust.token_to_id(name) for name in SPECIAL_TOKENS] == list(range(6))
    assert load_tokenizer(str(made)).end_token_ids == (5,)


@pytest.mark.parametrize("text", ["Ёж, съешь ещё 3 булки!", "naïve 中文 🙂\n\t", "<|endoftext|>", ""])
def test_any_text_comes_back(text: str, made: Path) -> None:
    tokenizer = load_tokenizer(str(made))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_new_model_runs(made: Path) -> None:
    model = load_pretrained(str(made))
    assert model(torch.tensor([[6, 7, 8]])).logits.shape == (1, 3, 800)
    assert model.config.sparse_mode == "alternating"
