"""The examples: the tokenizer, the new model, and the training set of the embedded model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from tests.conftest import REPOSITORY
from tests.system.conftest import read_demo
from tirazh.model.load import load_pretrained
from tirazh.model.tokenizer import load_tokenizer

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
    """Byte for byte, in another process with other string hashes."""
    run_example("tokenizer_training.py", "--data", news, "--out", tmp_path, "--vocab-size", 800)
    assert (tmp_path / "tokenizer.json").read_bytes() == (made / "tokenizer.json").read_bytes()


def test_special_tokens_come_first_and_the_last_ends_a_text(made: Path) -> None:
    rust = Tokenizer.from_file(str(made / "tokenizer.json"))
    assert [rust.token_to_id(name) for name in SPECIAL_TOKENS] == list(range(6))
    assert load_tokenizer(str(made)).end_token_ids == (5,)


@pytest.mark.parametrize("text", ["Ёж, съешь ещё 3 булки!", "naïve 中文 🙂\n\t", "<|endoftext|>", ""])
def test_the_trained_tokenizer_decodes_any_text_it_encodes(text: str, made: Path) -> None:
    tokenizer = load_tokenizer(str(made))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_new_model_runs(made: Path) -> None:
    model = load_pretrained(str(made))
    assert model(torch.tensor([[6, 7, 8]])).logits.shape == (1, 3, 800)
    assert model.config.sparse_mode == "alternating"


CATEGORIES = {
    "ru_news_lenta": ("Экономика", "Спорт", "Наука и техника", "Мир", "Культура", "Россия"),
    "ru_news_nplus1": ("Наука", "Космос"),
    "ru_news_ria": ("economy", "culture"),
    "en_news_agnews": ("Business", "Sports", "Sci/Tech", "World"),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic news and books in the files of the embedded model's sources.

    One training row of each source repeats the title of a held-out row, another repeats a held-out text.
    """
    folder = tmp_path_factory.mktemp("sources")
    for source, categories in CATEGORIES.items():
        for split in ("train", "test"):
            rows = [
                {
                    "id": f"{source} {split} {number}",
                    "title": f"{split} headline {number} of {source}",
                    "text": f"{split} article {number} of {source}",
                    "category": categories[number % len(categories)],
                }
                for number in range(60)
            ]
            if split == "train":
                rows[7]["title"] = f"test headline 3 of {source}"
                rows[8]["text"] = f"test article 4 of {source}"
            pl.DataFrame(rows).write_parquet(folder / f"{source}.{split}.parquet")
    books = [{"id": f"book {number}", "text": "Word after word.\n" * 9, "kind": "prose"} for number in range(5)]
    pl.DataFrame(books).write_parquet(folder / "ru_text.parquet")
    prompts = [{"source": "nplus1 ru_news_nplus1 train 9", "prompt": "Go on:"}]
    pl.DataFrame(prompts).write_parquet(folder / "ru_gen_eval.parquet")
    return folder


def test_nothing_held_out_is_in_the_embedded_models_training_set(sources: Path, tmp_path: Path) -> None:
    """Neither a title nor a text nor an evaluation prompt; and a second run writes the same files."""
    for name in ("first", "again"):
        run_example("embedded_data.py", "--data", sources, "--out", tmp_path / name)
    names = ["train.parquet", "watch.parquet", "texts.parquet", "articles.parquet", "labels.yaml"]
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    written = "\n".join(
        text
        for name in names[:-1]
        for row in pl.read_parquet(tmp_path / "first" / name).iter_rows()
        for text in row
        if text
    )
    assert "train headline 10 of ru_news_lenta" in written
    assert "test headline" not in written
    assert "test article" not in written
    assert "train headline 9 of ru_news_nplus1" not in written


def test_the_training_set_has_every_label_of_the_label_file(sources: Path, tmp_path: Path) -> None:
    run_example("embedded_data.py", "--data", sources, "--out", tmp_path)
    rows = pl.read_parquet(tmp_path / "train.parquet")
    asked, plain = rows.filter(pl.col("text").is_not_null()), rows.filter(pl.col("text").is_null())
    labels = yaml.safe_load((tmp_path / "labels.yaml").read_text(encoding="utf-8"))
    assert set(asked["completion"]) == set(labels)
    assert len(plain) > 0


def test_the_mean_of_two_models_lies_between_them_and_runs(made: Path, tmp_path: Path) -> None:
    """The mean of a model with itself is the model; that of two has the means of their weights, in the dtype asked."""
    other = tmp_path / "other"
    shutil.copytree(made, other)
    weights = load_file(made / "model.safetensors")
    save_file({name: weight + 2.0 for name, weight in weights.items()}, other / "model.safetensors", {"format": "pt"})
    run_example("mean_of_models.py", "--models", made, made, "--out", tmp_path / "same")
    assert all(
        torch.equal(each, weights[name]) for name, each in load_file(tmp_path / "same/model.safetensors").items()
    )
    run_example("mean_of_models.py", "--models", made, other, "--out", tmp_path / "mean", "--dtype", "bfloat16")
    means = load_file(tmp_path / "mean/model.safetensors")
    assert means.keys() == weights.keys()
    for name, mean in means.items():
        assert torch.equal(mean, (weights[name].double() + 1.0).bfloat16()), name
    assert load_pretrained(str(tmp_path / "mean"))(torch.tensor([[6, 7]])).logits.isfinite().all()


def test_the_rows_of_a_stage_have_the_shares_that_were_asked_for(tmp_path: Path) -> None:
    labelled = [{"text": f"news {number}", "completion": "sport"} for number in range(50)]
    texts = [{"text": None, "completion": f"{word} {number}"} for number in range(50) for word in ("text", "текст")]
    pl.DataFrame([*labelled, *texts]).write_parquet(tmp_path / "last.parquet")
    flags = ["--rows", tmp_path / "last.parquet", "--count", 60, "--english", 0.7, "--seed", 1]
    for name in ("first", "again"):
        run_example("stage_rows.py", *flags, "--out", tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "again").read_bytes()
    rows = pl.read_parquet(tmp_path / "first")
    generated = rows.filter(pl.col("text").is_null())["completion"].to_list()
    assert (len(rows), len(generated), sum(text.startswith("text") for text in generated)) == (60, 30, 21)
    assert len(set(rows.iter_rows())) == 60, "no row is drawn twice"
