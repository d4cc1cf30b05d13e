"""Unsafe templates are refused, and rendering is bounded in time and size for any row."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.ending import attempt, refusal
from tests.fuzz.mutations import mutants
from tirazh.pipeline.prompts.template import PromptTemplate

LONG = "а" * 1_000_000
ROW = {"text": LONG, "a": "x", "n": 7}

# Refused when the template is compiled.
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
    "a nested loop": "{% for x in text %}{% for y in text %}{% endfor %}{% endfor %}",
    "a loop over a call": "{% for x in range(9) %}{% endfor %}",
    "a method of an item": "{% for x in text %}{{ x.upper() }}{% endfor %}",
    "an attribute of an attribute": "{% for x in text %}{{ x.__class__.__mro__ }}{% endfor %}",
    "a method of the loop": "{% for x in text %}{{ loop.cycle(x) }}{% endfor %}",
    "a recursive loop": "{% for x in text recursive %}{{ loop(x) }}{% endfor %}",
    "a macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ text }}",
    "a call block": "{% call text() %}{% endcall %}",
    "a set block": "{% set x %}{{ text }}{% endset %}",
    "a with block": "{% with x = text %}{% endwith %}",
    "a block": "{% block b %}{{ text }}{% endblock %}",
    "an include": "{% include text %}",
    "an import": "{% from 'x' import y %}",
    "an extends statement": "{% extends text %}",
    "an autoescape block": "{% autoescape true %}{{ text }}{% endautoescape %}",
    "a do statement": "{% do text.x %}",
    "a debug statement": "{% debug %}",
    "a translation": "{% trans %}x{% endtrans %}",
    "a multiplication": "{{ text * 100 }}",
    "a power": "{{ 9 ** 9 ** 9 }}",
    "an addition": "{{ text + text }}",
    "a formatting operator": "{{ text % 1 }}",
    "a range": "{{ 1 .. 9 }}",
    "a list": "{{ [text, text] }}",
    "a mapping": "{{ {text: text} }}",
    "a tuple": "{{ (text, text) }}",
    "an unknown filter": "{{ text|shout }}",
    "a Jinja filter outside the subset": "{{ text|indent(1000000) }}",
    "an unknown test": "{{ text is strange }}",
    "a Jinja test outside the subset": "{{ text is filter }}",
    "a membership test of an attribute": "{{ 'a' in text.x }}",
    "the context": "{{ self.x }}",
    "an open variable": "{{ text",
    "an open block": "{% if text %}",
    "an end without a start": "{% endif %}",
    "an empty variable": "{{ }}",
    "an empty filter": "{{ text| }}",
    "a truncation to a negative length": "{{ text|truncate(-5) }}",
    "an unclosed string": "{{ 'text }}",
    "an unclosed comment": "{# text",
    "an invalid character": "{{ ? }}",
    "a number of 5,000 digits": "{{ text|truncate(" + "9" * 5_000 + ") }}",
    "a name that begins with a digit": "{{ 1text }}",
    "deep brackets": "{{ " + "(" * 5_000 + "text" + ")" * 5_000 + " }}",
    "deep nots": "{{ " + "not " * 5_000 + "text }}",
    "deep conditions": "{% if text %}" * 500 + "x" + "{% endif %}" * 500,
    "deep conditions, fewer": "{% if text %}" * 120 + "x" + "{% endif %}" * 120,
    "deep conditional expressions": "{{ " + "text if text else " * 2_000 + "text }}",
    "a long chain of filters": "{{ text" + "|trim" * 5_000 + " }}",
    "a long chain of joins": "{{ " + " ~ ".join(["text"] * 20_000) + " }}",
    "two million characters": "{{ text }}" + "x" * 2_000_000,
    "a lone surrogate": "{{ text }}\ud800",
    "a lone surrogate in a name": "{{ te\udfffxt }}",
    "a lone surrogate in a constant": "{{ text|replace('a', '\ud800') }}",
}
# These are compiled, but rendering a row may fail or exceed the size limit.
BAD_FOR_A_ROW = {
    "growth by replacing": "{{ text" + "|replace('а', 'аааааааааа')" * 12 + " }}",
    "growth of a constant": "{{ 'aa'" + "|replace('a', 'aaaaaaaaaa')" * 12 + " ~ text }}",
    "growth by replacing the empty string": "{{ text" + "|replace('', 'xxxxxxxxx')" * 12 + " }}",
    "growth by repeating": "{{ text }}" * 100,
    "growth by joining": "{{ " + " ~ ".join(["text"] * 100) + " }}",
    "growth by a default": "{{ b|default(text ~ text ~ text ~ text ~ text ~ text ~ text ~ text ~ text) }}" * 10,
    "a truncation shorter than its ellipsis": "{{ text|truncate(1, true, '.....') }}",
    "a truncation to a string": "{{ text|truncate('x') }}",
    "a replacement without arguments": "{{ text|replace }}",
    "a replacement of null by null": "{{ text|replace(none, none) }}",
    "a filter with extra arguments": "{{ text|upper(1, 2, 3) }}",
    "a filter with an unknown keyword": "{{ text|trim(foo=1) }}",
    "a comparison of a string with a number": "{% if text < n %}x{% endif %}",
    "a null": "{{ nothing }}",
    "a null in a filter": "{{ nothing|upper }}",
    "a comparison with null": "{% if nothing < 1 %}x{% endif %}",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_template_is_refused_before_any_row(name: str) -> None:
    refusal("templates", BAD[name], lambda: PromptTemplate(BAD[name]))


@pytest.mark.parametrize("name", BAD_FOR_A_ROW)
def test_rendering_a_row_works_or_is_an_error_of_that_row(name: str) -> None:
    template = PromptTemplate(BAD_FOR_A_ROW[name])
    attempt("templates", BAD_FOR_A_ROW[name], lambda: template.render(ROW))


@pytest.mark.parametrize("name", [name for name in BAD_FOR_A_ROW if name.startswith("growth")])
def test_a_prompt_that_grows_too_long_is_refused(name: str) -> None:
    template = PromptTemplate(BAD_FOR_A_ROW[name])
    assert "characters" in refusal("templates", BAD_FOR_A_ROW[name], lambda: template.render(ROW))


@pytest.mark.parametrize("seed", range(2))
def test_a_randomly_damaged_template_works_or_is_refused(seed: int) -> None:
    good = "{{ text|trim|upper }}{% if a is none %}: {{ n|default('—') }}{% endif %}\n{{ text|truncate(9, true) }}"
    for _, data in mutants(good.encode(), count=60, seed=seed):
        source = data.decode("utf-8", "replace")
        attempt("templates", source, lambda source=source: PromptTemplate(source).render(ROW))


TOKENS = [
    *("{{", "}}", "{%", "%}", "{#", "#}", "text", "a", "n", "none", "true", "if", "else", "elif", "endif", "is", "not"),
    *("and", "or", "in", "|", "~", "(", ")", "'x'", '"', "1", "0.5", "9e999", "-", "==", "<", "replace", "truncate"),
    *("default", "defined", " ", "\n", "upper", ",", ".", "[", "]", "self", "loop", "raw", "endraw", "set", "for"),
    *("endfor", "x.y", "loop.first", "items"),
]


VALUES_OF_A_ROW = {"text": "новость", "a": None, "n": 7, "items": [{"y": "1"}, None, "x"]}


@given(source=st.lists(st.sampled_from(TOKENS), max_size=25).map(" ".join))
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_any_sequence_of_template_tokens_works_or_is_refused(source: str) -> None:
    attempt("templates", source, lambda: PromptTemplate(source).render(VALUES_OF_A_ROW))


VALUES = st.none() | st.integers() | st.floats() | st.text() | st.booleans() | st.binary() | st.dates()


@given(value=VALUES)
@settings(max_examples=60)
def test_any_value_of_a_column_works_or_is_refused(value: object) -> None:
    source = "{{ text|trim|replace('a', 'b')|truncate(5) }}{% if text %}{{ text ~ text|upper|title|lower }}{% endif %}"
    attempt("templates", (source, value), lambda: PromptTemplate(source).render({"text": value}))
