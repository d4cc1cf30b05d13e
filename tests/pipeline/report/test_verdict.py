"""The first sentence of a page, and when it asks somebody to look."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pipeline.report.test_content import manifest
from tirazh.pipeline.report.verdict import verdict_of

LABELS = {"sport": 150, "economics": 141, "culture": 50}


def night(**values: Any) -> dict[str, Any]:
    base = {"kind": "classify", "rows": 350, "errors": 0, "labels": LABELS, "abstained": 9, "finish_reasons": {}}
    return manifest(**base | values)


def headline(**values: Any) -> str:
    return verdict_of(night(**values), None).headline.replace("\N{NO-BREAK SPACE}", " ")


def test_the_headline_of_a_night_counts_every_row_once() -> None:
    labels = {"sport": 150, "economics": 139, "culture": 50}
    assert headline(errors=2, labels=labels, accuracy=0.843, gold_rows=51, macro_f1=0.8) == (
        "339 of 350 rows are labelled; 9 abstained, 2 have errors. Accuracy on 51 gold rows: 84 %."
    )
    assert headline(abstained=0) == "All 350 rows are labelled."
    assert headline(rows=1, abstained=0, labels={"a": 1}) == "The only row is labelled."


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("generate", "199 of 200 rows have a completion; 1 has an error."),
        ("score", "199 of 200 rows have a score; 1 has an error."),
        ("embed", "199 of 200 rows have an embedding; 1 has an error."),
    ],
)
def test_other_kinds_have_their_words(kind: str, text: str) -> None:
    assert verdict_of(manifest(kind=kind, errors=1), None).headline == text


def test_filters_say_what_they_kept() -> None:
    facts = {"rows": 77, "input_rows": 80, "kept": 77, "dropped_rows": 3, "drop_reasons": {"max_chars": 3}}
    assert verdict_of(manifest(**facts), None).headline == "77 of 80 rows are kept; 3 were dropped."


def test_several_questions_are_counted() -> None:
    questions = {"topic": {"labels": {"a": 348}}, "tone": {"labels": {"b": 348}}}
    found = manifest(kind="classify", rows=350, errors=2, questions=questions)
    assert verdict_of(found, None).headline == "348 of 350 rows are answered, with 2 questions each; 2 have errors."


def test_a_good_night_has_nothing_to_look_at() -> None:
    found = verdict_of(night(errors=3, accuracy=0.84, gold_rows=51, macro_f1=0.8), None)
    assert (found.state, found.state_text, found.reasons) == ("good", "Good", ())


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"errors": 4, "error_kinds": {"column 'text' is null": 4}}, "the most frequent: column 'text' is null"),
        ({"abstained": 35}, "of the rows have no label: the confidence was too low"),
        ({"accuracy": 0.6, "gold_rows": 50, "macro_f1": 0.6}, "The accuracy on 50 gold rows is"),
        ({"confidences": [0] * 9 + [80] + [0] * 9 + [261]}, "of the rows have a confidence below 0.5"),
        ({"labels": {"sport": 350}, "abstained": 0}, "of the labels are sport"),
        ({"rows": 0, "labels": {}, "abstained": 0}, "The output has no rows."),
        ({"finish_reasons": {"length": 20, "stop": 80}}, "of the completions were cut"),
    ],
    ids=["errors", "abstained", "accuracy", "uncertain", "one label", "empty", "cut"],
)
def test_somebody_is_asked_to_look(values: dict[str, Any], reason: str) -> None:
    found = verdict_of(night(**values), None)
    assert (found.state, found.state_text) == ("look", "Look here")
    assert reason in found.reasons[0]


def test_few_gold_rows_are_no_reason() -> None:
    assert verdict_of(night(accuracy=0.2, gold_rows=5, macro_f1=0.2), None).state == "good"


def test_reasons_of_others_count() -> None:
    assert verdict_of(night(), None, ["There are fewer rows about sport than before."]).state == "look"
