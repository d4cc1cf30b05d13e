"""Labels that a reader or a model could not tell apart are refused, and the sentence names both."""

from __future__ import annotations

import pytest

from tirazh.errors import RequestError
from tirazh.pipeline.classification.label_checks import check_labels


@pytest.mark.parametrize(
    "labels",
    [
        {"caf\u00e9": "x", "cafe\u0301": "y"},
        {"a": "caf\u00e9", "b": "cafe\u0301"},
        {"ﬁnance": "x", "finance": "y"},
        {"a b": "x", "a\u00a0b": "y"},
        {"a b": "x", "a  b": "y"},
        {"a": "x", "a\u200b": "y"},
        {"sport": "x", "sport ": "y"},
    ],
)
def test_labels_that_look_the_same_are_refused(labels: dict[str, str]) -> None:
    with pytest.raises(RequestError, match="look the same") as caught:
        check_labels(labels)
    assert "\n" not in str(caught.value)


def test_words_of_two_labels_are_refused_with_both_names() -> None:
    with pytest.raises(RequestError, match="'w' for more than one label, 'a' and 'b'"):
        check_labels({"a": "w", "b": " w"})


@pytest.mark.parametrize("words", ["a\nb", "a\r\nb", "a\u2028b"])
def test_words_with_a_line_break_inside_are_refused(words: str) -> None:
    with pytest.raises(RequestError, match="the words of 'x' contain a line break"):
        check_labels({"x": words, "y": "y"})


@pytest.mark.parametrize("empty", ["", " ", "\u200b", "\u00a0"])
def test_empty_names_and_words_are_refused(empty: str) -> None:
    for labels in ({"a": "x", empty: "y"}, {"a": "x", "b": empty}):
        with pytest.raises(RequestError, match="empty label or empty words"):
            check_labels(labels)


def test_labels_that_differ_in_case_or_begin_one_another_are_taken() -> None:
    check_labels({"US": "US", "us": "us", "New York": "New York", "New York City": "New York City\n"})
