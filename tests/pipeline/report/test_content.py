"""What the report says first, the figures of texts, and the dataset card."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tirazh.pipeline.report.card import render_card, size_category
from tirazh.pipeline.report.content import content_of, sampled_columns
from tirazh.pipeline.report.examples import examples_text
from tirazh.pipeline.report.overview import settings_text
from tirazh.pipeline.report.page import render
from tirazh.pipeline.report.text_figures import count_texts

SPEC = {"max_new_tokens": 64, "prompt_column": "prompt", "prefix": "", "temperature": 1.0, "top_p": 0.9, "top_k": 0}


def manifest(**values: Any) -> dict[str, Any]:
    base = {
        "kind": "generate",
        "output": "s3://bucket/made",
        "rows": 200,
        "errors": 0,
        "dtype": "float32",
        "plan_id": "0" * 32,
        "model_fingerprint": "f" * 16,
        "finish_reasons": {"length": 126, "stop": 74},
        "completion_lengths": {"9-16": 74, "33-64": 126},
        "spec": SPEC,
    }
    return base | values


def sample(texts: list[str | None]) -> pa.Table:
    return pa.table(
        {
            "prompt": [f"topic {index}" for index in range(len(texts))],
            "completion": pa.array(texts, pa.string()),
            "finish_reason": ["stop"] * len(texts),
            "completion_tokens": pa.array([7] * len(texts), pa.int32()),
        }
    )


def test_texts_that_were_cut_come_first_after_the_headline() -> None:
    assert content_of(manifest(), None).sentences == (
        "All 200 rows have a completion.",
        "63\N{NO-BREAK SPACE}% of the completions were cut at 64 tokens (max_new_tokens).",
    )


def test_rows_with_errors_come_before_everything_else() -> None:
    said = content_of(manifest(errors=50, error_kinds={"the prompt is empty": 50}), None).sentences
    assert said[0] == "150 of 200 rows have a completion; 50 have errors."
    assert said[1] == "25\N{NO-BREAK SPACE}% of the rows have an error; the most frequent: the prompt is empty."


def test_json_that_does_not_parse_is_told() -> None:
    texts: list[str | None] = [f'{{"title": "text {index}' for index in range(30)]
    said = content_of(manifest(finish_reasons={"stop": 30}), sample([*texts, '{"title": "whole"}'])).sentences
    assert said[1].startswith("1 of the 31 sampled completions that begin like JSON are JSON.")


def test_repeated_texts_are_told() -> None:
    texts: list[str | None] = [f"title {index % 32}" for index in range(200)]
    said = content_of(manifest(finish_reasons={"stop": 200}), sample(texts)).sentences
    assert said[1] == "Of 200 sampled completions 32 are distinct."


def test_reasons_to_drop_rows_are_told() -> None:
    said = content_of(manifest(kept=150, drop_reasons={"language": 30, "min_chars": 20}), None).sentences
    assert said[0] == "150 of 200 rows are kept; 50 were dropped."
    assert "The most frequent reasons to drop a row: language 30, min_chars 20." in said


@given(st.lists(st.text(alphabet='ab \n{}[]":1', max_size=12), max_size=30))
def test_the_figures_of_texts_agree_with_their_definitions(texts: list[str]) -> None:
    figures = count_texts(texts)
    assert figures.texts == len(texts)
    assert 0 <= figures.json_valid <= figures.json_texts <= figures.texts
    assert figures.distinct + figures.repeated == figures.texts
    pairs = [pair for text in texts for pair in zip(text.split(), text.split()[1:], strict=False)]
    expected = len(set(pairs)) / len(pairs) if pairs else None
    assert figures.distinct_2 == expected


def test_rows_are_shown_with_their_columns_and_how_they_ended() -> None:
    content = content_of(manifest(), sample(["one", None, "three"]))
    assert [row.text for row in content.rows] == ["one", "", "three"]
    assert content.rows[0].columns == (("prompt", "topic 0"),)
    assert content.rows[0].note == "complete · 7 tokens"


def test_the_page_escapes_texts_and_columns() -> None:
    page = render(manifest(), sample=sample(["<script>alert(1)</script>", "a\x1b[31m"]))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page


def test_only_columns_that_the_page_needs_are_read() -> None:
    names = sampled_columns(manifest(spec=SPEC | {"vary": {"topic": ["a"]}, "prefix": "t_"}))
    assert {"prompt", "topic", "t_completion", "t_error"} <= set(names)


def test_the_card_has_a_header_of_the_hub() -> None:
    card = render_card(manifest(), sample(["Новости спорта", "Sport news ```"]))
    _, header, body = card.split("---\n", 2)
    values = yaml.safe_load(header)
    assert values["language"] == ["ru", "en"]
    assert values["size_categories"] == ["n<1K"]
    assert values["configs"] == [{"config_name": "default", "data_files": "part-*.parquet"}]
    assert "63\N{NO-BREAK SPACE}% of the completions were cut at 64 tokens" in body
    assert "````text\nprompt: topic 1\nSport news ```\n````" in body, "the fence is longer than those in a text"


@pytest.mark.parametrize(
    ("rows", "name"),
    [(1, "n<1K"), (1_000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**9, "1B<n<10B"), (10**12, "n>1T")],
)
def test_size_categories_are_those_of_the_hub(rows: int, name: str) -> None:
    assert size_category(rows) == name


def test_settings_are_shown_without_those_that_are_unset() -> None:
    shown = yaml.safe_load(settings_text(SPEC | {"limit": None, "stop": [], "overwrite": False, "seed": 0}))
    assert shown == {name: value for name, value in SPEC.items() if name != "prefix"} | {"seed": 0}


def test_the_examples_of_a_classify_job_are_told() -> None:
    summary = {
        "examples": 25,
        "rows": [*range(1, 21)],
        "tokens": 1_300,
        "orders": 2,
        "examples_per_label": {"sport": 13, "money": 12},
    }
    (sentence,) = content_of(manifest(kind="classify", few_shot=summary), None).notes
    assert sentence.startswith(
        "Examples before every prompt: 25 (sport 13, money 12), 1,300 tokens in each of 2 orders; rows 1, 2, 3,"
    )
    assert sentence.endswith("19, 20 and 5 more of the file.")


def test_the_examples_of_several_questions_and_the_nearest_ones_are_told() -> None:
    labels = {"topic": {"sport": 1, "money": 1}, "tone": {"good": 2}}
    summary = {"examples": 2, "rows": [3, 7], "tokens": 40, "orders": 1, "examples_per_label": labels}
    assert examples_text(summary) == "2 (topic: sport 1, money 1; tone: good 2), 40 tokens; rows 3, 7 of the file"
    nearest = {"selection": "nearest", "examples_per_row": 4, "examples": 1_500}
    assert examples_text(nearest) == "for each row the 4 nearest of 1,500"
