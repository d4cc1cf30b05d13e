"""From a constraint to the text that llguidance compiles, with the bounds that untrusted schemas must keep."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from llguidance import LLMatcher

from tirazh.model.requests import Constraint

MAX_CHARACTERS = 1 << 20  # of a schema or of all choices; 20,000 choices of 12 letters compile in 140 ms
MAX_REGEX_CHARACTERS = 1 << 14
MAX_DEPTH = 64  # of nested values in a schema
# JSON is written as Python's json.dumps writes it. White space between tokens would be the model's choice otherwise,
# and a small model may fill the whole completion with it.
_JSON_STYLE: dict[str, Any] = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "coerce_one_of": False,
    "lenient": False,
}
_REGEX_SIGNS = frozenset(r"\\.+*?()|[]{}^$#&-~/")


class GrammarError(ValueError):
    """A constraint cannot be compiled; the message says why, without naming a setting."""


def grammar_text(constraint: Constraint) -> str:
    """Return llguidance's grammar. Raises GrammarError for texts that are too large, and for a schema that is no JSON
    object."""
    limit = MAX_REGEX_CHARACTERS if constraint.kind == "regex" else MAX_CHARACTERS
    if len(constraint.text) > limit:
        raise GrammarError(f"it has {len(constraint.text)} characters, and {limit} are allowed")
    if constraint.kind == "regex":
        return _of_regex(constraint.text)
    if constraint.kind == "choices":
        texts: list[str] = json.loads(constraint.text)
        return _of_regex("|".join("".join(map(_escape, text)) for text in texts))
    schema = parse_schema(constraint.text)
    return str(LLMatcher.grammar_from_json_schema(json.dumps(tightened(schema)), overrides=_JSON_STYLE))  # type: ignore[arg-type]


def parse_schema(text: str) -> dict[str, Any]:
    """Return the schema in a JSON text. Raises GrammarError."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"it is not JSON ({str(error)[:100]})") from None
    if not isinstance(schema, dict):
        raise GrammarError("it is not a JSON object")
    if _depth(schema) > MAX_DEPTH:
        raise GrammarError(f"it is nested deeper than {MAX_DEPTH} levels")
    return schema


def tightened(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with what an object does not say: that it has all its properties and no others.

    What follows the result follows the schema. A model would otherwise invent further properties without end. Schemas
    with `allOf` are left as they are, because there one object is described in several places.
    """
    if any("allOf" in node for node in _nodes(schema)):
        return schema
    closed: dict[str, Any] = _closed(schema)
    return closed


# Keywords below which are schemas: one, a list of them, or a mapping to them.
_ONE = ("items", "additionalProperties", "contains", "if", "then", "else", "additionalItems")
_MANY = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_NAMED = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")


def _closed(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    out = dict(node)
    for key, value in node.items():
        if key in _ONE and isinstance(value, dict):
            out[key] = _closed(value)
        elif key in _MANY and isinstance(value, list):
            out[key] = [_closed(each) for each in value]
        elif key in _NAMED and isinstance(value, dict):
            out[key] = {name: _closed(each) for name, each in value.items()}
    if isinstance(node.get("properties"), dict) and "$ref" not in node:
        out.setdefault("required", list(node["properties"]))
        if "patternProperties" not in node:
            out.setdefault("additionalProperties", False)
    return out


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for each in _children(value):
        yield from _nodes(each)


def _children(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        level, depth = [each for parent in level for each in _children(parent)], depth + 1
    return depth


def _of_regex(pattern: str) -> str:
    return str(LLMatcher.grammar_from_regex(pattern))


def _escape(letter: str) -> str:
    return "\\" + letter if letter in _REGEX_SIGNS else letter
