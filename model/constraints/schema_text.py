"""JSON Schemas as text: the bounds that untrusted ones keep, and what a schema leaves open. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

MAX_CHARACTERS = 1 << 20  # of a schema or of all choices; 20,000 choices of 12 letters compile in 140 ms
MAX_DEPTH = 64  # of nested values in a schema


class GrammarError(ValueError):
    """A constraint cannot be compiled; the message says why, without naming a setting."""


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
    """Return the schema with what it does not say: the type of a value whose keywords name one, and that an object has
    all its properties and no others.

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
_SAYS_TYPE = frozenset({"type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf"})
# Keywords that speak of values of one type only; without `type` a value of any other type would follow the schema too.
_TYPED = (
    ("object", {"properties", "required", "additionalProperties", "patternProperties"}),
    ("array", {"items", "prefixItems", "minItems", "maxItems"}),
    ("string", {"minLength", "maxLength", "pattern", "format"}),
)
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
    if not _SAYS_TYPE & set(node):
        kind = next((kind for kind, keys in _TYPED if keys & set(node)), None)
        out |= {} if kind is None else {"type": kind}
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
