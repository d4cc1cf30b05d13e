"""Whole jobs of `classify --head linear` with the embedded model in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.pipeline.without_ray import run_without_ray, with_the_model
from tirazh.errors import InputError, OutputError, RequestError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.classification.head.fit import fit_head
from tirazh.pipeline.output.leases import lease as lease_module
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.preview.run import preview_job
from tirazh.pipeline.prompts.source import CLASSIFY_TEMPLATE
from tirazh.pipeline.spec import ClassifySpec, EmbedSpec
from tirazh.pipeline.unused_settings import unused_settings

SPORT = ["Сборная выиграла матч", "Хоккеисты проиграли финал", "Тренер покинул клуб", "Боксёр завоевал титул"]
MONEY = ["Банк снизил ставку", "Курс рубля вырос", "Биржа закрылась ростом", "Экспорт нефти упал"]
TEXTS = ["Футболисты забили три гола", "Инфляция замедлилась", "Теннисистка вышла в финал", "Цены на газ выросли"]
LABELS = {"sport": None, "economics": None}
Run = Callable[..., dict[str, Any]]


def examples(rows: int = 16) -> pl.DataFrame:
    texts = [
        f"{text} в {2000 + number} году." for number in range(rows) for text in (SPORT[number % 4], MONEY[number % 4])
    ]
    return pl.DataFrame({"text": texts, "label": ["sport", "economics"] * rows})


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Any]:
    examples().write_parquet(tmp_path / "few.parquet")
    pl.DataFrame({"text": TEXTS, "topic": ["sport", "economics"] * 2}).write_parquet(tmp_path / "in.parquet")
    return {"input": (str(tmp_path / "in.parquet"),), "examples": str(tmp_path / "few.parquet"), "threads": 1}


@pytest.fixture
def run(paths: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    run_without_ray(monkeypatch, with_the_model)
    monkeypatch.setattr(lease_module, "RACE_WINDOW_S", 0.0)
    return lambda name="out", **settings: run_job(spec_of(paths, tmp_path / name, **settings))


def spec_of(paths: dict[str, Any], output: Path, **settings: Any) -> ClassifySpec:
    values = paths | {"labels": LABELS, "head": "linear", "dtype": "float32", "seq_length": 128} | settings
    return ClassifySpec(output=str(output), **values)


def rows_of(output: Path) -> pl.DataFrame:
    return pl.read_parquet(output / "part-*.parquet")


def test_labels_are_those_of_a_logistic_regression_on_embeddings(
    run: Run, paths: dict[str, Any], tmp_path: Path
) -> None:
    manifest = run(gold_column="topic")
    rows = rows_of(tmp_path / "out")
    assert rows.columns == ["text", "topic", "label", "confidence", "probabilities", "prompt_tokens", "error"]
    embedded = []
    for number, file in enumerate((paths["examples"], *paths["input"])):
        values: dict[str, Any] = {"template": CLASSIFY_TEMPLATE, "dtype": "float32", "seq_length": 128, "threads": 1}
        run_job(EmbedSpec(input=(file,), output=str(tmp_path / f"embedded-{number}"), **values))
        embedded.append(rows_of(tmp_path / f"embedded-{number}"))
    of_examples, of_rows = (np.array(table["embedding"].to_list(), np.float32) for table in embedded)
    head = fit_head(of_examples, embedded[0]["label"].to_list(), list(LABELS))
    expected = np.exp(head.log_probabilities(of_rows)).astype(np.float32)
    found = [[entry["probability"] for entry in row] for row in rows["probabilities"].to_list()]
    assert np.abs(np.array(found) - expected).max() < 1e-6
    assert rows["label"].to_list() == ["sport", "economics"] * 2
    assert manifest["accuracy"] == 1.0
    assert manifest["head"] == {"pooling": "last", **head.facts}
    assert "fitted on 32 examples" in (tmp_path / "out/_tirazh/report.html").read_text()
    assert verify(str(tmp_path / "out")).is_whole


def test_the_rows_are_the_same_for_any_parts_and_slots_and_in_a_preview(
    run: Run, paths: dict[str, Any], tmp_path: Path
) -> None:
    run()
    run("other", part_rows=1, slots=2)
    plain = rows_of(tmp_path / "out")
    assert rows_of(tmp_path / "other").equals(plain)
    head = (tmp_path / "out/_tirazh/head.json").read_bytes()
    assert (tmp_path / "other/_tirazh/head.json").read_bytes() == head
    shown = preview_job(spec_of(paths, tmp_path / "new"), rows=4)
    assert [made["output"][0] for made in shown["rows"]] == plain.to_dicts()


def test_a_later_run_takes_the_stored_head(run: Run, tmp_path: Path) -> None:
    run(part_rows=1)
    rows = rows_of(tmp_path / "out")
    head = tmp_path / "out/_tirazh/head.json"
    before = head.stat().st_mtime_ns
    for part in sorted((tmp_path / "out").glob("part-*"))[:2]:
        part.unlink()
    run(part_rows=1)
    assert head.stat().st_mtime_ns == before
    assert rows_of(tmp_path / "out").equals(rows)
    assert not (tmp_path / "out/_tirazh/head").exists(), "the embeddings of the examples are removed"


def test_rows_are_added_with_the_stored_head(run: Run, tmp_path: Path) -> None:
    run(append=True)
    head = (tmp_path / "out/_tirazh/head.json").read_bytes()
    pl.DataFrame({"text": TEXTS[:2], "topic": ["sport", "economics"]}).write_parquet(tmp_path / "late.parquet")
    manifest = run(append=True, input=(str(tmp_path / "late.parquet"),))
    assert (manifest["rows"], manifest["head"]["pooling"]) == (6, "last")
    assert (tmp_path / "out/_tirazh/head.json").read_bytes() == head
    labels = rows_of(tmp_path / "out")["label"].to_list()
    assert labels[4:] == labels[:2]
    assert verify(str(tmp_path / "out")).is_whole


@pytest.mark.parametrize("damage", ["cut", "foreign", "number"])
def test_a_stored_head_that_cannot_be_used_is_refused(run: Run, damage: str, tmp_path: Path) -> None:
    run(part_rows=1)
    head = tmp_path / "out/_tirazh/head.json"
    if damage == "foreign":
        run("other", labels={"economics": None, "sport": None})
        head.write_bytes((tmp_path / "other/_tirazh/head.json").read_bytes())
        reason = "it is the head of another job: labels differ"
    else:
        data = head.read_bytes()
        head.write_bytes(data[:100] if damage == "cut" else data.replace(b'"format": 1', b'"format": 2'))
        reason = "it is not JSON" if damage == "cut" else "its checksum does not match its content"
    next((tmp_path / "out").glob("part-*")).unlink()
    with pytest.raises(OutputError, match=f"head.json cannot be used: {reason}; remove it, and the next run fits"):
        run(part_rows=1)
    head.unlink()
    run(part_rows=1)
    assert json.loads(head.read_bytes())["format"] == 1


def test_overwrite_replaces_the_head_with_the_output(run: Run, tmp_path: Path) -> None:
    run()
    before = (tmp_path / "out/_tirazh/head.json").read_bytes()
    run(overwrite=True, seed=5)
    assert (tmp_path / "out/_tirazh/head.json").read_bytes() != before
    assert verify(str(tmp_path / "out")).is_whole


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (pl.lit("art").alias("label"), "--examples, row 1: 'art' is not one of the labels sport, economics"),
        (pl.lit(None, pl.String).alias("text"), "--examples, row 1: column 'text' is null"),
        (pl.lit("sport").alias("label"), "--examples has fewer than 2 rows with the label 'economics'"),
        (pl.col("label").alias("topic"), "has no column 'label'"),
    ],
)
def test_examples_that_cannot_be_used_are_refused(
    run: Run, paths: dict[str, Any], change: pl.Expr, says: str, tmp_path: Path
) -> None:
    changed = examples().with_columns(change)
    changed.drop("label" if "topic" in changed.columns else []).write_parquet(paths["examples"])
    with pytest.raises((InputError, RequestError), match=says):
        run()
    assert not (tmp_path / "out").exists()


def test_few_examples_are_noted(run: Run, paths: dict[str, Any], tmp_path: Path) -> None:
    spec = spec_of(paths, tmp_path / "out")
    (line,) = unused_settings(spec, plan_job(spec))
    assert line.startswith("--head linear: --examples has 32 rows; below 200 a head is often worse")
    examples(100).write_parquet(paths["examples"])
    assert unused_settings(spec, plan_job(spec)) == []
