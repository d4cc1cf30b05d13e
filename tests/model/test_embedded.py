"""The embedded model: small, complete, and accurate enough for the demo.

Uses plain forward passes only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from tirazh.model.checkpoints.directory import open_checkpoint
from tirazh.model.config import ModelConfig, SparsePattern
from tirazh.model.load import EMBEDDED_DIR, load_pretrained
from tirazh.model.tokenizer import Tokenizer, load_tokenizer

DEMO_DATA = Path(__file__).parents[2] / "jobs" / "demo_data"
PROMPT_END = "\nТема:"


@pytest.fixture(scope="module")
def model() -> Iterator[nn.Module]:
    with torch.inference_mode():
        yield load_pretrained("embedded").eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(str(EMBEDDED_DIR))


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return open_checkpoint("embedded").config


@pytest.fixture(scope="module")
def labels() -> dict[str, str]:
    words: dict[str, str] = yaml.safe_load((DEMO_DATA / "labels.yaml").read_text(encoding="utf-8"))
    return words


def read_lines(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DEMO_DATA / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("name", "most_bytes"),
    [("model.safetensors", 25_000_000), ("tokenizer.json", 2_000_000), ("config.json", 10_000), ("README.md", 20_000)],
)
def test_the_embedded_model_is_complete_and_small(name: str, most_bytes: int) -> None:
    assert 100 < (Path(EMBEDDED_DIR) / name).stat().st_size <= most_bytes


def test_the_embedded_model_is_a_sparse_rugpt3_with_the_published_pattern(config: ModelConfig) -> None:
    assert config.sparse_mode == "alternating"
    assert config.sparse_pattern == SparsePattern()
    assert config.max_position_embeddings > 2 * config.sparse_pattern.window_size


def test_the_weights_of_the_embedded_model_are_finite(model: nn.Module) -> None:
    assert all(weight.isfinite().all() for weight in model.parameters())


def test_the_embedding_has_a_row_for_every_token(config: ModelConfig, tokenizer: Tokenizer) -> None:
    assert tokenizer.size <= config.vocab_size < tokenizer.size + 8


@pytest.mark.parametrize("text", ["Ёжик — 3,5 °C\nи\tтак далее…", "naïve café 😀", "<s>not a control token</s>"])
def test_the_embedded_tokenizer_decodes_a_text_it_encodes(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_embedded_tokenizer_has_end_and_padding_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.end_token_ids == (tokenizer.rust.token_to_id("<|endoftext|>"),)
    assert tokenizer.pad_token_id == tokenizer.rust.token_to_id("<pad>")


def test_the_demo_labels_begin_with_different_tokens(tokenizer: Tokenizer, labels: dict[str, str]) -> None:
    first = [tokenizer.encode(" " + words)[0] for words in labels.values()]
    assert len(set(first)) == len(labels)


def test_the_demo_news_have_every_label_equally_often_in_both_languages(labels: dict[str, str]) -> None:
    news = read_lines("news.jsonl")
    seen = [(item["language"], item["label"]) for item in news]
    assert {pair: seen.count(pair) for pair in seen} == {(lang, label): 6 for lang in ("ru", "en") for label in labels}
    assert len({item["id"] for item in news}) == len({item["text"] for item in news}) == 60


def continue_prompt(model: nn.Module, token_ids: list[int], num_tokens: int) -> list[int]:
    ids = list(token_ids)
    for _ in range(num_tokens):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(token_ids) :]


def test_the_embedded_model_continues_a_prompt_deterministically(model: nn.Module, tokenizer: Tokenizer) -> None:
    prompts = [tokenizer.encode(item["prompt"]) for item in read_lines("prompts.jsonl")]
    first, again, other = (continue_prompt(model, prompts[i], 12) for i in (0, 0, 1))
    assert first == again != other
    assert tokenizer.decode(first).strip()


@pytest.mark.parametrize(("language", "least"), [("ru", 0.65), ("en", 0.75)])
def test_the_embedded_model_labels_the_demo_news_better_than_chance(
    model: nn.Module, tokenizer: Tokenizer, labels: dict[str, str], language: str, least: float
) -> None:
    news = [item for item in read_lines("news.jsonl") if item["language"] == language]
    first_tokens = [tokenizer.encode(" " + words)[0] for words in labels.values()]
    right = 0
    for item in news:
        logits_V = model(torch.tensor([tokenizer.encode(item["text"] + PROMPT_END)])).logits[0, -1]
        chosen = list(labels)[int(logits_V[first_tokens].argmax())]
        right += chosen == item["label"]
    assert right / len(news) >= least  # chance is 0.2
