"""Templates from anybody: refused, or bounded in time and size whatever the columns hold."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.ending import attempt, refusal
from tests.fuzz.mutations import mutants
from tirazh.pipeline.prompts.template import PromptTemplate

LONG = "а" * 1_000_000
ROW = {"text": LONG, "a": "x", "n": 7}

# Refused when they are read.
BAD = {
    "an attribute": "{{ text.upper }}",
    "a private attribute": "{{ text.__class__ }}",
    "an item": "{{ text[0] }}",
    "a slice": "{{ text[1:] }}",
    "the attr filter": "{{ text|attr('__class__') }}",
    "the map filter": "{{ text|map(attribute='x') }}",
    "a call": "{{ text() }}",
    "a call in a default": "{{ text|default(range(9)) }}",
    "a method": "{{ 'a'.join(text) }}",
    "a loop": "{% for x in text %}{% endfor %}",
    "a recursive loop": "{% for x in text recursive %}{{ loop(x) }}{% endfor %}",
    "a macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ text }}",
    "a call block": "{% call text() %}{% endcall %}",
    "a set block": "{% set x %}{{ text }}{% endset %}",
    "a with": "{% with x = text %}{% endwith %}",
    "a block": "{% block b %}{{ text }}{% endblock %}",
    "an include": "{% include text %}",
    "an import": "{% from 'x' import y %}",
    "an extends": "{% extends text %}",
    "an autoescape": "{% autoescape true %}{{ text }}{% endautoescape %}",
    "a do": "{% do text.x %}",
    "a debug": "{% debug %}",
    "a translation": "{% trans %}x{% endtrans %}",
    "a multiplication": "{{ text * 100 }}",
    "a power": "{{ 9 ** 9 ** 9 }}",
    "an addition": "{{ text + text }}",
    "a formatting": "{{ text % 1 }}",
    "a range": "{{ 1 .. 9 }}",
    "a list": "{{ [text, text] }}",
    "a mapping": "{{ {text: text} }}",
    "a tuple": "{{ (text, text) }}",
    "an unknown filter": "{{ text|shout }}",
    "a filter of Jinja": "{{ text|indent(1000000) }}",
    "an unknown test": "{{ text is strange }}",
    "a test of Jinja": "{{ text is filter }}",
    "a membership": "{{ 'a' in text.x }}",
    "the context": "{{ self.x }}",
    "an open variable": "{{ text",
    "an open block": "{% if text %}",
    "an end without a start": "{% endif %}",
    "an empty variable": "{{ }}",
    "an empty filter": "{{ text| }}",
    "a truncation to less than nothing": "{{ text|truncate(-5) }}",
    "an unclosed string": "{{ 'text }}",
    "an unclosed comment": "{# text",
    "signs of nothing": "{{ ? }}",
    "a number too long": "{{ text|truncate(" + "9" * 5_000 + ") }}",
    "a number as a name": "{{ 1text }}",
    "deep brackets": "{{ " + "(" * 5_000 + "text" + ")" * 5_000 + " }}",
    "deep nots": "{{ " + "not " * 5_000 + "text }}",
    "deep conditions": "{% if text %}" * 500 + "x" + "{% endif %}" * 500,
    "deep conditions, fewer": "{% if text %}" * 120 + "x" + "{% endif %}" * 120,
    "deep either-ors": "{{ " + "text if text else " * 2_000 + "text }}",
    "a long chain of filters": "{{ text" + "|trim" * 5_000 + " }}",
    "a long chain of joins": "{{ " + " ~ ".join(["text"] * 20_000) + " }}",
    "a million signs": "{{ text }}" + "x" * 2_000_000,
    "half a surrogate": "{{ text }}\ud800",
    "half a surrogate in a name": "{{ te\udfffxt }}",
    "half a surrogate in a constant": "{{ text|replace('a', '\ud800') }}",
}
# Good to read, and then too much, or too little, for a row.
HARMFUL_TO_ROWS = {
    "growth by replacing": "{{ text" + "|replace('а', 'аааааааааа')" * 12 + " }}",
    "growth of a constant": "{{ 'aa'" + "|replace('a', 'aaaaaaaaaa')" * 12 + " ~ text }}",
    "growth from nothing": "{{ text" + "|replace('', 'xxxxxxxxx')" * 12 + " }}",
    "growth by repeating": "{{ text }}" * 100,
    "growth by joining": "{{ " + " ~ ".join(["text"] * 100) + " }}",
    "growth by a default": "{{ b|default(text ~ text ~ text ~ text ~ text ~ text ~ text ~ text ~ text) }}" * 10,
    "a truncation shorter than its end": "{{ text|truncate(1, true, '.....') }}",
    "a truncation by a text": "{{ text|truncate('x') }}",
    "a replacement without words": "{{ text|replace }}",
    "a replacement by nothing": "{{ text|replace(none, none) }}",
    "a filter with too much": "{{ text|upper(1, 2, 3) }}",
    "a filter with a name of its own": "{{ text|trim(foo=1) }}",
    "a comparison of unlike things": "{% if text < n %}x{% endif %}",
    "a null": "{{ nothing }}",
    "a null in a filter": "{{ nothing|upper }}",
    "a null compared": "{% if nothing < 1 %}x{% endif %}",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_template_is_refused_when_it_is_read(name: str) -> None:
    refusal("templates", BAD[name], lambda: PromptTemplate(BAD[name]))


@pytest.mark.parametrize("name", HARMFUL_TO_ROWS)
def test_a_template_that_hurts_a_row_is_that_rows_error(name: str) -> None:
    template = PromptTemplate(HARMFUL_TO_ROWS[name])
    attempt("templates", HARMFUL_TO_ROWS[name], lambda: template.render(ROW))


@pytest.mark.parametrize("name", [name for name in HARMFUL_TO_ROWS if name.startswith("growth")])
def test_growth_is_stopped_before_it_is_there(name: str) -> None:
    template = PromptTemplate(HARMFUL_TO_ROWS[name])
    assert "characters" in refusal("templates", HARMFUL_TO_ROWS[name], lambda: template.render(ROW))


@pytest.mark.parametrize("seed", range(2))
def test_a_template_spoilt_at_random_works_or_says_why(seed: int) -> None:
    good = "{{ text|trim|upper }}{% if a is none %}: {{ n|default('—') }}{% endif %}\n{{ text|truncate(9, true) }}"
    for _, data in mutants(good.encode(), count=60, seed=seed):
        source = data.decode("utf-8", "replace")
        attempt("templates", source, lambda source=source: PromptTemplate(source).render(ROW))


TOKENS = [
    *("{{", "}}", "{%", "%}", "{#", "#}", "text", "a", "n", "none", "true", "if", "else", "elif", "endif", "is", "not"),
    *("and", "or", "in", "|", "~", "(", ")", "'x'", '"', "1", "0.5", "9e999", "-", "==", "<", "replace", "truncate"),
    *("default", "defined", " ", "\n", "upper", ",", ".", "[", "]", "self", "loop", "raw", "endraw", "set", "for"),
]


@given(source=st.lists(st.sampled_from(TOKENS), max_size=25).map(" ".join))
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_any_string_of_template_words_works_or_says_why(source: str) -> None:
    attempt("templates", source, lambda: PromptTemplate(source).render({"text": "новость", "a": None, "n": 7}))


VALUES = st.none() | st.integers() | st.floats() | st.text() | st.booleans() | st.binary() | st.dates()


@given(value=VALUES)
@settings(max_examples=60)
def test_any_value_of_a_column_works_or_says_why(value: object) -> None:
    source = "{{ text|trim|replace('a', 'b')|truncate(5) }}{% if text %}{{ text ~ text|upper|title|lower }}{% endif %}"
    attempt("templates", (source, value), lambda: PromptTemplate(source).render({"text": value}))
