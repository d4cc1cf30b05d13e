"""The card says how a model was made. No name in it can change its structure, and it holds no secret."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tirazh.jobs.settings import build_finetune_spec
from tirazh.pipeline.finetune.model_card import library_versions, render_model_card

LOG: list[dict[str, Any]] = [
    {"step": 0, "perplexity": 9.5, "accuracy": 0.1},
    {"step": 1, "loss": 3.0},
    {"step": 2, "perplexity": 4.25, "accuracy": 0.7},
]
EVALUATED = {
    **{"rows": 90, "skipped": 5, "cut_texts": 1, "cut_tokens": 40},
    "skipped_reasons": {"unknown label": {"rows": 3, "first": "row 1"}, "null": {"rows": 2, "first": "row 4"}},
}


def settings(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "input": ["news.parquet"],
        "output": "out",
        "model": "base",
        "completion_column": "desk",
        "labels": {"sport": "спорт", "money": "деньги"},
        "label_input": ["test.parquet"],
        "lora_rank": 4,
        "save": "both",
        "license": "apache-2.0",
    }
    return values | changes


def card(**changes: Any) -> str:
    spec = build_finetune_spec(settings(**changes))
    manifest = {
        "spec": spec.to_dict(),
        "output": "/models/my-news",
        "model_fingerprint": "ab12",
        "device": "cpu",
        "dtype": "float32",
        "versions": library_versions(),
        "total_steps": 2,
        "seconds": 3.5,
        "trained_tokens": 1234,
        "first_loss": 3.0,
        "last_loss": 2.5,
        "evaluation": {"perplexity": 4.25, "accuracy": 0.7},
        "packing": "single",
        "seq_length": 64,
        "rows": 500,
        "skipped": 2,
        "evaluation_rows": {"label_input": EVALUATED},
    }
    return render_model_card(manifest, LOG)


def header(text: str) -> dict[str, Any]:
    found = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(found, dict)
    return found


def test_a_card_says_how_the_model_was_made() -> None:
    text = card()
    assert header(text)["license"] == "apache-2.0"
    for words in (
        *("# `my-news`", "`base`, fingerprint `ab12`", "`news.parquet`", "`desk`", "500 rows", "2 skipped"),
        *("1,234 trained tokens", "LoRA of rank 4", "first step 3.0000, of the last steps 2.5000", "`sport`: `спорт`"),
        *(
            "| | before training | of this model |",
            "| perplexity | 9.5000 | 4.2500 |",
            "| accuracy | 0.1000 | 0.7000 |",
        ),
        *("tirazh `", "torch `", "deepspeed `", "transformers `"),
    ):
        assert words in text, words


def test_the_rows_of_an_evaluation_that_are_skipped_or_cut_are_counted() -> None:
    line = next(line for line in card(label_input=["test.parquet"]).splitlines() if line.startswith("- Labelled rows"))
    assert line == (
        "- Labelled rows: `test.parquet`: 90 rows, 5 skipped (unknown label 3, null 2), 1 text is too long: 40 tokens "
        "cut off"
    )


def test_the_settings_in_a_card_give_the_same_training() -> None:
    block = card().split("```yaml\n")[1].split("\n```")[0]
    values = yaml.safe_load(block)
    assert values.pop("kind") == "finetune"
    assert build_finetune_spec(values) == build_finetune_spec(settings())


def test_the_licence_is_not_stated_unless_it_is_given() -> None:
    text = card(license=None)
    assert "license" not in header(text)
    assert "Licence: not stated" in text


@pytest.mark.parametrize("name", ["a`b", "``x", "a\n# title", "<script>alert(1)</script>", "a|b", "]( x )", "\x1b[31m"])
def test_names_stay_in_their_place(name: str) -> None:
    text = card(completion_column=name, labels={name: "a", "b": "b`\n```\n# title"[:2]}, license=f"{name}x")
    assert header(text)["license"] == f"{name}x"
    assert text.count("\n# ") == 1
    assert "\x1b" not in text
    inside = "".join(text.split("```yaml")[0].split("---\n")[2:])
    assert "<script>" not in inside or "`<script>" in inside


def test_a_template_cannot_end_its_block() -> None:
    text = card(template="```\n# title\n{{ text }}", labels={"a": "a", "b": "b"})
    assert "````text\n```\n# title\n{{ text }}\n````" in text


def test_secrets_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_TOKEN", "abcdefgh12345678")
    text = card(template="{{ text }} abcdefgh12345678", license="https://user:pass@host/x")
    assert "abcdefgh12345678" not in text
    assert "pass" not in text.replace("passes", "")
