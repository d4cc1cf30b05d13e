"""Labels: names, words, aliases, descriptions and levels."""

from __future__ import annotations

from typing import Any

import pytest

from tirazh.errors import RequestError
from tirazh.jobs.yaml_values.labels import read_labels
from tirazh.pipeline.classification.label_checks import check_labels
from tirazh.pipeline.classification.labels import Label, candidates_of, parse_labels
from tirazh.pipeline.label_levels import levels_above


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ({"sport": None}, Label("sport", "sport")),
        ({"Sci/Tech": None}, Label("Sci/Tech", "Sci/Tech")),
        ({"sport": "спорт"}, Label("sport", "спорт")),
        ({"sport": ["спорт", "футбол"]}, Label("sport", "спорт", ("футбол",))),
        ({"sport": {"aliases": ["футбол"]}}, Label("sport", "sport", ("футбол",))),
        (
            {"sport": {"words": "спорт", "description": "матчи и турниры"}},
            Label("sport", "спорт", (), "матчи и турниры"),
        ),
    ],
)
def test_a_label_is_given_by_its_words_or_by_a_mapping(given: dict[str, Any], label: Label) -> None:
    assert parse_labels(given) == (label,)
    assert parse_labels(read_labels(given)) == (label,)


def test_the_candidates_of_a_label_are_its_words_and_its_aliases() -> None:
    labels = parse_labels({"sport": ["спорт", "футбол"], "economics": "экономика"})
    assert candidates_of(labels) == ((0, "спорт"), (0, "футбол"), (1, "экономика"))


def test_a_level_has_at_least_two_labels_below_it() -> None:
    names = ["a", "b/c", "b/d/e", "b/d/f", "Sci/Tech"]
    assert levels_above(names) == {"a": (), "b/c": ("b",), "b/d/e": ("b", "b/d"), "b/d/f": ("b", "b/d"), "Sci/Tech": ()}
    assert list(read_labels(names).values()) == ["a", "c", "e", "f", "Sci/Tech"]
    assert read_labels("Sci/Tech,World") == {"Sci/Tech": "Sci/Tech", "World": "World"}


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({"a": {"word": "x"}, "b": None}, "did you mean words?"),
        ({"a": 1.5, "b": None}, "must have words"),
        ({"a": [], "b": None}, "an empty list of words"),
        ({"a": {"description": 3}, "b": None}, "the description of 'a' must be a text"),
        ({"a": ["x", "y"], "b": "y"}, "uses the words 'y' for more than one label, 'a' and 'b'"),
        ({"a": ["x", "x"], "b": "y"}, "uses the words 'x' for 'a' twice"),
        ({"a": None, "a/b": None, "a/c": None}, "give rows of 'a' alone a label of their own, such as 'a/other'"),
        ({"a/": "x", "a/b": None}, "the name 'a/' has an empty level"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(labels: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError) as refused:
        check_labels(labels)
    assert says in str(refused.value)
