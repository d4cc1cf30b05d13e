"""Whole jobs of `embed` with the embedded model in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pytest
import torch

from tests.pipeline.without_ray import run_without_ray, with_the_model
from tirazh.errors import InputError
from tirazh.model.checkpoints.directory import resolve_model
from tirazh.model.load import load_pretrained
from tirazh.model.tokenizer import load_tokenizer
from tirazh.pipeline.build import run_job
from tirazh.pipeline.output.leases import lease as lease_module
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.preview.run import preview_job
from tirazh.pipeline.spec import EmbedSpec

TEXTS = [
    "Учёные обнаружили новый вид бабочек в горах Алтая.",
    "Сборная России выиграла матч со счётом два — один, сообщает агентство.",
    "Курс рубля",
    "Банк снизил ставку. " * 30,
    "Премьера спектакля состоится в Москве в субботу.  ",
]
Embed = Callable[..., pl.DataFrame]


@pytest.fixture
def embed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Embed:
    """Run a job over texts, and read its output."""
    run_without_ray(monkeypatch, with_the_model)
    monkeypatch.setattr(lease_module, "RACE_WINDOW_S", 0.0)

    def embed_texts(texts: list[str | None], name: str = "out", **settings: Any) -> pl.DataFrame:
        pl.DataFrame({"text": texts}).write_parquet(tmp_path / "in.parquet")
        run_job(spec_of(tmp_path, name, **settings))
        return pl.read_parquet(tmp_path / name / "*.parquet")

    return embed_texts


def spec_of(folder: Path, name: str = "out", **settings: Any) -> EmbedSpec:
    paths: dict[str, Any] = {"input": (str(folder / "in.parquet"),), "output": str(folder / name)}
    return EmbedSpec(**paths, **{"threads": 1, "seq_length": 256, "dtype": "float32"} | settings)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("template", [None, "Новость отдела, прочитанная редактором сегодня утром: {{ text }}\nТема:"])
def test_an_embedding_is_the_last_hidden_state_of_transformers(
    embed: Embed, pooling: str, template: str | None
) -> None:
    rows = embed(TEXTS, pooling=pooling, template=template)
    assert rows.schema == {
        "text": pl.String,
        "embedding": pl.List(pl.Float32),
        "prompt_tokens": pl.Int32,
        "error": pl.String,
    }
    model = load_pretrained("embedded").eval()
    tokenizer = load_tokenizer(resolve_model("embedded"))
    for row in rows.iter_rows(named=True):
        prompt = (template or "{{ text }}").replace("{{ text }}", row["text"]).rstrip()
        ids = tokenizer.encode(prompt)
        if len(ids) > 256:
            assert row["prompt_tokens"] <= 256, "the text is cut on the right"
            continue
        assert row["prompt_tokens"] == len(ids)
        with torch.inference_mode():
            hidden = model.model(torch.tensor([ids])).last_hidden_state[0].numpy()
        expected = hidden[-1] if pooling == "last" else hidden.mean(axis=0)
        assert np.abs(np.array(row["embedding"], np.float32) - expected).max() < 1e-4


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_embeddings_have_the_same_bits_for_any_slots_and_parts_and_in_a_preview(
    embed: Embed, pooling: str, tmp_path: Path
) -> None:
    plain = embed(TEXTS, pooling=pooling)
    assert embed(TEXTS, "other", pooling=pooling, slots=2, part_rows=2).equals(plain)
    shown = preview_job(spec_of(tmp_path, pooling=pooling), rows=len(TEXTS))
    assert [made["output"][0]["embedding"] for made in shown["rows"]] == plain["embedding"].to_list()


def test_a_row_without_a_text_has_an_error_and_no_embedding(embed: Embed, tmp_path: Path) -> None:
    rows = embed(["Курс рубля", None, " "], max_error_rate=1.0)
    assert rows["embedding"].is_null().to_list() == [False, True, True]
    assert rows["error"].to_list() == [None, "column 'text' is null", "column 'text' is empty"]
    assert verify(str(tmp_path / "out")).is_whole


def test_a_template_without_the_text_is_refused(embed: Embed) -> None:
    with pytest.raises(InputError, match="--template does not use the text column 'text'"):
        embed(["a"], template="Тема:")


def test_five_readers_read_embeddings(embed: Embed, tmp_path: Path) -> None:
    import datasets

    expected = embed([*TEXTS, None], max_error_rate=0.5)["embedding"].to_list()
    files = str(tmp_path / "out" / "part-*.parquet")
    by_pandas = [None if value is None else value.tolist() for value in pd.read_parquet(tmp_path / "out")["embedding"]]
    by_duckdb = [value for (value,) in duckdb.sql(f"SELECT embedding FROM '{files}'").fetchall()]
    by_arrow = pa.dataset.dataset(tmp_path / "out").to_table()["embedding"].to_pylist()
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert by_pandas == by_duckdb == by_arrow == list(loaded["embedding"]) == expected
