"""What completions a constraint allows: small schemas, patterns and choices, each with texts that follow them and texts
that do not.

The texts are given to the grammar token by token, once as the tokenizer writes them and once as single bytes, which a
model may also choose.
"""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.constrained_engine import embedded_tokenizer, grammars, of_choices, of_regex, of_schema
from tirazh.model.constraints import grammar as grammar_module
from tirazh.model.constraints.grammar import Grammar
from tirazh.model.constraints.schema_text import MAX_DEPTH, GrammarError, tightened
from tirazh.model.requests import Constraint

BOUNDED = {"type": "object", "properties": {"s": {"type": "string", "minLength": 2, "maxLength": 6}}}


def follows(constraint: Constraint, text: str) -> bool:
    """Whether the grammar accepts a text as a whole completion."""
    state = grammars().compiled(constraint).start()
    tokens = embedded_tokenizer().encode(text)
    num_taken = state.matcher.try_consume_tokens(tokens)
    return num_taken == len(tokens) and state.is_accepting


def in_field(value: str) -> str:
    return json.dumps({"s": value}, ensure_ascii=False)


@pytest.mark.parametrize(
    "value", ['о "я"', "a\nb", "\\\\", "tab\t", "кошка", "\U0001f642\U0001f642", "ё" * 6, "ab", "a/b", "漢字"]
)
def test_a_bounded_string_may_hold_any_letters_and_escapes(value: str) -> None:
    assert follows(of_schema(BOUNDED), in_field(value))


@pytest.mark.parametrize("value", ["", "я", "\U0001f642", "ё" * 7, "\U0001f642" * 7, '"' * 7, "\n" * 7])
def test_lengths_count_characters_and_not_bytes_or_escapes(value: str) -> None:
    assert not follows(of_schema(BOUNDED), in_field(value))


def test_a_pattern_and_a_greatest_length_hold_together() -> None:
    schema = {"type": "string", "pattern": "^[а-я]+$", "maxLength": 5}
    assert follows(of_schema(schema), '"слово"')
    assert not follows(of_schema(schema), '"словоо"')
    assert not follows(of_schema(schema), '"Слово"')


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"enum": ["спорт", 7, None]}, ['"спорт"', "7", "null"], ['"наука"', "8"]),
        ({"const": {"a": 1}}, ['{"a": 1}'], ['{"a": 2}']),
        ({"type": "integer", "minimum": -3, "maximum": 12}, ["-3", "12", "0"], ["-4", "13", "1.5"]),
        ({"type": "number"}, ["1.5", "-2", "1e3"], ["1.", '"1"']),
        ({"type": "boolean"}, ["true", "false"], ["True", "null"]),
        ({"type": ["string", "null"]}, ["null", '""'], ["1"]),
        ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, ["null", "5"], ['"x"']),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2}, ["[1]", "[1, 2]"], ["[]"]),
        ({"type": "array", "items": {"enum": ["а", "б"]}, "maxItems": 1}, ["[]", '["а"]'], ['["в"]', '["а", "б"]']),
        ({"properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"]}, ['{"a": 1}'], ["{}"]),
        ({"type": "string", "format": "date"}, ['"2026-11-29"'], ['"29.11.2026"', '"2026-13-01"']),
        ({"$ref": "#/$defs/t", "$defs": {"t": {"enum": ["да"]}}}, ['"да"'], ['"нет"']),
    ],
)
def test_completions_follow_the_schema(schema: dict[str, Any], good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not follows(of_schema(schema), text)] == []
    assert [text for text in bad if follows(of_schema(schema), text)] == []


def test_an_object_has_all_its_properties_and_no_others_unless_the_schema_says_so() -> None:
    both = {"properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
    assert follows(of_schema(both), '{"a": 1, "b": 2}')
    assert not follows(of_schema(both), '{"a": 1}')
    assert not follows(of_schema(both), '{"a": 1, "b": 2, "c": 3}')
    assert follows(of_schema(both | {"required": []}), '{"b": 2}')
    assert follows(of_schema(both | {"additionalProperties": {"type": "integer"}}), '{"a": 1, "b": 2, "c": 3}')


def test_only_schemas_are_tightened_and_no_values() -> None:
    schema = {"enum": [{"properties": {"a": 1}}], "default": {"properties": {}}}
    assert tightened(schema) == schema
    merged = {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}
    assert tightened(merged) == merged


def test_json_is_written_in_one_way() -> None:
    schema = of_schema({"properties": {"a": {"type": "array", "items": {"type": "integer"}}}})
    assert follows(schema, '{"a": [1, 2]}')
    assert not follows(schema, '{ "a": [1, 2]}')
    assert not follows(schema, '{"a":[1,2]}')


def test_a_schema_cannot_change_how_it_is_compiled() -> None:
    with pytest.raises(GrammarError, match="uniqueItems"):
        grammars().compiled(of_schema({"uniqueItems": True, "x-guidance": {"lenient": True}}))


@pytest.mark.parametrize("letter", ["я", "\U0001f642", "漢"])
def test_a_letter_may_be_cut_into_its_bytes(letter: str) -> None:
    tokens = grammars().tokens
    single = {tokens.decode_bytes([token]): token for token in range(tokens.vocab_size)}
    state = grammars().compiled(of_regex(letter + "{2,3}")).start()
    state.take([single[bytes([byte])] for byte in (letter * 2).encode()])
    assert state.error is None
    assert state.is_accepting


def test_a_regular_expression_matches_the_whole_completion() -> None:
    date = of_regex(r" \d{1,2} (января|мая) \d{4} года\.")
    assert follows(date, " 9 мая 1945 года.")
    assert not follows(date, " 9 мая 1945 года")
    assert not follows(date, " 9 мая 1945 года. И")


@pytest.mark.parametrize(
    "text", [" да", " да, но", "a.b", "[x]", "a\nb", 'он "и" она\\', "<s>", "<|endoftext|> a", "#&-~"]
)
def test_choices_are_texts_whatever_signs_they_hold(text: str) -> None:
    choices = of_choices(" да", " да, но", "a.b", "[x]", "a\nb", 'он "и" она\\', "<s>", "<|endoftext|> a", "#&-~")
    assert follows(choices, text)
    assert not follows(choices, text + "!")
    assert not follows(choices, "axb")


def test_the_name_of_a_control_token_is_forced_as_text() -> None:
    state = grammars().compiled(of_choices("ну <s> ну")).start()
    forced = state.forced()
    assert not set(forced) & set(embedded_tokenizer().control_tokens.values())
    assert embedded_tokenizer().decode_completion(forced) == "ну <s> ну"


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (of_schema({"type": "array", "uniqueItems": True}), 'Unimplemented keys: ["uniqueItems"]'),
        (of_schema({"not": {"type": "string"}}), 'Unimplemented keys: ["not"]'),
        (of_schema({"type": "strin"}), "Invalid type: strin"),
        (of_schema({"minLength": 5, "maxLength": 2, "type": "string"}), "minLength (5) is greater than maxLength (2)"),
        (of_schema({"type": "integer", "minimum": 2, "maximum": 1}), "minimum (2) is greater than maximum (1)"),
        (of_schema({"type": "string", "pattern": "(a"}), "unclosed group"),
        (of_schema({"$ref": "https://example.org/x"}), "does not fetch"),
        (Constraint("schema", "[]"), "it is not a JSON object"),
        (Constraint("schema", ""), "it is not JSON"),
        (Constraint("schema", '{"items":' * 100 + "{}" + "}" * 100), f"nested deeper than {MAX_DEPTH} levels"),
        (Constraint("schema", '{"items":' * 10_000 + "{}" + "}" * 10_000), "it is not JSON"),
        (of_schema({"enum": ["я" * 2_000_000]}), "characters, and 1048576 are allowed"),
        (of_regex("(a"), "regex parse error: (a error: unclosed group"),
        (of_regex("(?=a)b"), "look-around"),
        (of_regex("a" * 20_000), "it has 20000 characters, and 16384 are allowed"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_one_line(constraint: Constraint, message: str) -> None:
    with pytest.raises(GrammarError) as caught:
        grammars().compiled(constraint)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_thousand_choices_compile() -> None:
    texts = [f"выбор {number}" for number in range(1_000)]
    assert follows(of_choices(*texts), "выбор 777")


def test_a_grammar_that_has_met_its_bound_starts_again_for_each_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    """All completions add to one automaton. The bound holds for each of them as if it ran alone."""
    monkeypatch.setattr(grammar_module, "_MAX_STATES", 1_200)
    text = {"type": "string", "minLength": 5, "maxLength": 120}
    grammar = Grammar(of_schema({"properties": {"title": text, "body": text | {"maxLength": 600}}}), grammars().tokens)
    news = 'В матче забито 3 гола, сказал "тренер".\n Экономика растёт, наука тоже; ' * 3
    documents = [{"title": news[i : i + 30 + i], "body": news[i + 9 : 120 + 2 * i]} for i in range(30)]
    renewed: list[Grammar] = []
    renew = Grammar.renew
    monkeypatch.setattr(Grammar, "renew", lambda self: (renewed.append(self), renew(self)))
    for document in documents:
        state = grammar.start()
        for token in embedded_tokenizer().encode(json.dumps(document, ensure_ascii=False)):
            state.matcher.compute_bitmask()
            assert not state.matcher.is_error() or state.recover()
            state.take([token])
        assert state.is_complete
        assert state.error is None
    assert renewed, "the bound was never met, so this test shows nothing"


@st.composite
def schemas(draw: st.DrawFn, depth: int = 2) -> dict[str, Any]:
    """Schemas of every kind of value."""
    kinds = ["string", "integer", "number", "boolean", "enum", "nullable"]
    kind = draw(st.sampled_from([*kinds, "array", "object"] if depth else kinds))
    if kind == "string":
        least = draw(st.integers(0, 4))
        return {"type": "string", "minLength": least, "maxLength": least + draw(st.integers(0, 8))}
    if kind == "integer":
        least = draw(st.integers(-50, 50))
        return {"type": "integer", "minimum": least, "maximum": least + draw(st.integers(0, 99))}
    if kind == "enum":
        return {"enum": draw(st.lists(st.text(max_size=6) | st.integers(0, 9), min_size=1, max_size=4, unique=True))}
    if kind == "nullable":
        return {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 5}]}
    if kind == "array":
        return {"type": "array", "items": draw(schemas(depth - 1)), "minItems": 1, "maxItems": 3}
    if kind == "object":
        names = draw(st.lists(st.sampled_from(["a", "б", "имя", "x y"]), min_size=1, max_size=3, unique=True))
        return {"type": "object", "properties": {name: draw(schemas(depth - 1)) for name in names}}
    return {"type": kind}


@settings(max_examples=40, deadline=None)
@given(schema=schemas(), data=st.data())
def test_a_random_walk_through_the_masks_gives_json_that_validates(schema: dict[str, Any], data: st.DataObject) -> None:
    grammar = Grammar(of_schema(schema), grammars().tokens)
    state, taken = grammar.start(), []
    ends = embedded_tokenizer().end_token_ids
    random = data.draw(st.randoms(use_true_random=False))
    for _ in range(200):
        mask = np.frombuffer(state.matcher.compute_bitmask(), np.uint8)
        allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist()
        token = random.choice(allowed)
        if token in ends:
            break
        taken.append(token)
        state.take([token])
        if state.is_complete:
            break
    text = embedded_tokenizer().decode_completion(taken)
    if state.is_accepting:
        jsonschema.validate(json.loads(text), schema)
