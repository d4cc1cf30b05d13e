"""The list of `filters:` becomes rules, or is refused in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.errors import RequestError
from tirazh.pipeline.quality.arguments import RULES
from tirazh.pipeline.quality.presets import PRESETS
from tirazh.pipeline.quality.rules import MAX_RULES, parse_filters
from tirazh.pipeline.spec import GenerateSpec

REFUSED: dict[str, tuple[Any, str]] = {
    "a preset that is nearly one": ("short-rus", "no rule or preset 'short-rus'; did you mean short-ru?"),
    "a rule that is nearly one": ({"min_char": 3}, "no rule or preset 'min_char'; did you mean min_chars?"),
    "a rule that is none": ({"perplexity": 3}, "the presets are short-ru, short-en, the rules valid, finished"),
    "a number": (3, "3 is no rule; write the name of a preset, or a rule such as {min_chars: 20}"),
    "an empty mapping": ([{}], "{} is no rule"),
    "a text for a number": ({"min_chars": "20"}, "min_chars needs an integer from 0 up, not '20'"),
    "true for a number": ({"min_chars": True}, "min_chars needs an integer from 0 up, not True"),
    "a rule that needs a value": ("min_chars", "min_chars needs an integer from 0 up, not True"),
    "a share of percent": ({"max_uppercase": 30}, "max_uppercase needs a share between 0 and 1, not 30"),
    "not a number": ({"max_symbols": float("nan")}, "max_symbols needs a share between 0 and 1, not nan"),
    "an argument": ({"max_top_ngram": {"n": 2, "shar": 0.1}}, "no argument 'shar'; did you mean share?"),
    "no share": ({"max_top_ngram": {"n": 2}}, "max_top_ngram needs the argument share"),
    "n": ({"max_top_ngram": {"n": 0, "share": 0.1}}, "max_top_ngram needs n from 1 to 50, not 0"),
    "a language": ({"language": "rus"}, "must be ru, en, other or a list of them, not 'rus'; did you mean ru?"),
    "no language": ({"language": []}, "language needs at least one language"),
    "stop words": ({"min_stop_words": {"language": "de", "share": 0.1}}, "has stop words of ru and en, not of 'de'"),
    "a range": ({"mean_word_length": [9, 3]}, "mean_word_length needs two numbers, such as"),
    "bits": ({"max_bits_per_char": 0}, "max_bits_per_char needs a number above 0, not 0"),
    "a column alone": ({"column": "title"}, "the item for column 'title' has no rule"),
    "a column that is no name": ({"column": 3, "min_chars": 1}, "column must be the name of a column, not 3"),
    "a rule of the row": ({"column": "title", "finished": True}, "finished judges the completion as a whole"),
    "an expression without a name": ({"expression": "a > 1"}, "needs a name, which becomes its reason"),
    "an expression without a text": ({"expression": "", "name": "a"}, "must be a condition in SQL"),
    "a name of two words": ({"expression": "a > 1", "name": "too long"}, "needs a name"),
    "a name that is taken": ({"expression": "a > 1", "name": "language"}, "which is the reason of a rule"),
    "a key beside an expression": ({"expression": "a > 1", "nam": "b"}, "not 'nam'; did you mean name?"),
    "too many": ([{"column": f"c{i}", "min_chars": 1} for i in range(MAX_RULES + 1)], "at most 200 are possible"),
}


@pytest.mark.parametrize(("filters", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_a_mistake_is_refused_when_the_spec_is_made(filters: Any, sentence: str) -> None:
    with pytest.raises(RequestError) as refused:
        GenerateSpec(input=("in",), output="out", filters=filters)
    assert sentence in str(refused.value)
    assert str(refused.value).startswith("--filters")


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.sampled_from(["ru", "a > 1", "x"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(st.sampled_from(["n", "share", "language", "from_words", "x"]), inner, max_size=3),
    ),
    max_leaves=4,
)
KEYS = st.sampled_from([*RULES, "preset", "column", "expression", "name", "x"])


@given(st.one_of(JSON, st.lists(st.dictionaries(KEYS, JSON, max_size=3), max_size=3)))
def test_any_other_value_is_refused_in_a_sentence(filters: Any) -> None:
    message = "--filters"
    try:
        parse_filters(filters)
    except RequestError as refused:
        message = str(refused)
    assert message.startswith("--filters")
    assert len(message.splitlines()) == 1


def test_one_item_needs_no_list_and_one_item_may_hold_several_rules() -> None:
    assert parse_filters("short-ru") == parse_filters(["short-ru"])
    assert parse_filters({"min_chars": 1, "max_chars": 9}) == parse_filters([{"min_chars": 1}, {"max_chars": 9}])
    assert parse_filters(None) == parse_filters([]) == ()


def test_a_later_rule_replaces_one_of_a_preset_in_its_place() -> None:
    names = [rule.name for rule in parse_filters("short-ru")]
    changed = parse_filters(["short-ru", {"min_chars": 100}])
    assert [rule.name for rule in changed] == names
    assert next(rule.value for rule in changed if rule.name == "min_chars") == 100


def test_false_switches_a_rule_of_a_preset_off() -> None:
    rules = parse_filters(["short-en", {"finished": False}])
    assert "finished" not in [rule.name for rule in rules]
    assert len(rules) == len(PRESETS["short-en"]) - 1


def test_the_reason_of_a_named_column_holds_its_name() -> None:
    rules = parse_filters([{"min_chars": 20}, {"column": "title", "min_chars": 5, "max_chars": 120}])
    assert [rule.reason for rule in rules] == ["min_chars", "title.min_chars", "title.max_chars"]


def test_a_preset_for_a_column_has_its_rules_on_texts_alone() -> None:
    rules = parse_filters({"preset": "short-ru", "column": "body"})
    assert "body.min_chars" in [rule.reason for rule in rules]
    assert "body.finished" not in [rule.reason for rule in rules]


def test_the_presets_hold_known_rules() -> None:
    for preset in PRESETS:
        assert {rule.name for rule in parse_filters(preset)} <= set(RULES)
