"""The figures of `benchmarks/text_quality.py`, on texts whose figures are known."""

from __future__ import annotations

import pytest

from benchmarks.text_quality import has_turns, is_json, is_title_list, text_shares

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen."


def test_words_sentences_and_repetition_are_counted() -> None:
    found = text_shares(["A cat sat. A dgo ran"], is_word=lambda word: word != "dgo", corpus=[])
    assert found.known_words == pytest.approx(5 / 6)
    assert found.ended_sentences == 0.5
    assert found.distinct_sentences == 1.0
    assert text_shares(["a b c d a b c d"], is_word=str.isalpha, corpus=[]).repeated_4_grams == pytest.approx(1 / 5)


def test_a_text_of_the_corpus_shares_all_of_its_13_grams() -> None:
    assert text_shares([LONG], is_word=str.isalpha, corpus=[f"Zero {LONG}"]).shared_13_grams == 1.0
    assert text_shares([LONG], is_word=str.isalpha, corpus=["one two three"]).shared_13_grams == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("system: a\nuser: b\nassistant: c", True),
        ("user: b\nuser: c", False),
        ("user: b\nassistant: c\nand more", False),
    ],
)
def test_a_dialogue_consists_of_turns(text: str, expected: bool) -> None:
    assert has_turns(text) is expected


def test_lists_of_titles_and_json_are_recognised() -> None:
    assert is_title_list(" «Дом у реки», «Снег».\nДальше", "ru")
    assert not is_title_list(" Дом у реки", "ru")
    assert is_title_list(" The House, Snow and Wind.", "en")
    assert not is_title_list(" the house", "en")
    assert is_json('{"a": 1}\nmore')
    assert not is_json('{"a": 1')
