"""From a constraint to the text that llguidance compiles."""

from __future__ import annotations

import json
from typing import Any

from llguidance import LLMatcher

from tirazh.model.constraints.schema_text import MAX_CHARACTERS, GrammarError, parse_schema, tightened
from tirazh.model.requests import Constraint

MAX_REGEX_CHARACTERS = 1 << 14  # the work of a regular expression grows with its length
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


def _of_regex(pattern: str) -> str:
    return str(LLMatcher.grammar_from_regex(pattern))


def _escape(letter: str) -> str:
    return "\\" + letter if letter in _REGEX_SIGNS else letter
