"""Requests of an OpenAI batch file as rows: `custom_id`, `url`, `prompt`, and the row's own sampling parameters.

Format: one JSON object a line with `custom_id`, `method`, `url` and `body`
(https://platform.openai.com/docs/guides/batch). A body has `prompt` (completions) or `messages` (chat).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tirazh.errors import InputError, did_you_mean
from tirazh.pipeline import schema

CUSTOM_ID = "custom_id"
URL = "url"
BODY = "body"
# Parameters of a body, and the columns that set them for their row.
_PARAMETERS = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
}
# Parameters that change nothing here.
_IGNORED = ("model", "user", "metadata", "store", "stream_options", "service_tier")
# Parameters that are settings of the whole job, with the value that changes nothing.
_OF_THE_JOB = {
    "n": ("--samples", 1),
    "best_of": ("--samples", 1),
    "stop": ("--stop", None),
    "presence_penalty": ("--presence-penalty", 0),
    "frequency_penalty": ("--frequency-penalty", 0),
    "logit_bias": ("--logit-bias", None),
    "response_format": ("--schema", None),
    "stream": ("nothing: a batch is not streamed", False),
    "echo": ("nothing: the prompt is not repeated", False),
}

Rows = Sequence[tuple[int, Mapping[str, Any]]]


def is_batch(row: Mapping[str, Any]) -> bool:
    """Whether a line is a request of a batch file."""
    return CUSTOM_ID in row and isinstance(row.get(BODY), Mapping)


def rows_of_batch(rows: Rows, name: str) -> list[tuple[int, dict[str, Any]]]:
    """Turn requests, with their line numbers, into rows.

    Raises InputError, with the line, for a request without an id, for an id that two requests have, and for a
    parameter that cannot differ between rows.
    """
    seen: dict[str, int] = {}
    found = []
    for number, row in rows:
        place = f"{name} line {number}"
        identity, body = row.get(CUSTOM_ID), row.get(BODY)
        if not isinstance(identity, str) or not isinstance(body, Mapping):
            raise InputError(f"{place} has no custom_id or no body; all lines must be requests, or none")
        if identity in seen:
            raise InputError(f"{place} has the custom_id {identity!r}, as line {seen[identity]} has")
        seen[identity] = number
        given = {CUSTOM_ID: identity, URL: _url(row, body), schema.PROMPT: _prompt(body, place)}
        found.append((number, given | _parameters(body, place)))
    return found


def _url(row: Mapping[str, Any], body: Mapping[str, Any]) -> str:
    url = row.get(URL)
    return url if isinstance(url, str) else "/v1/chat/completions" if "messages" in body else "/v1/completions"


def _prompt(body: Mapping[str, Any], place: str) -> str:
    prompt, messages = body.get("prompt"), body.get("messages")
    if isinstance(prompt, str) and messages is None:
        return prompt
    if isinstance(messages, list) and prompt is None:
        return "".join(f"{_turn(message, place)}\n" for message in messages) + "assistant:"
    raise InputError(f"{place}: the body needs a prompt, which is one string, or messages")


def _turn(message: Any, place: str) -> str:
    role = message.get("role") if isinstance(message, Mapping) else None
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, Mapping)]
        known = [text for text in texts if isinstance(text, str)]
        content = "".join(known) if len(known) == len(content) else None
    if not isinstance(role, str) or not isinstance(content, str):
        raise InputError(f"{place}: a message needs a role and a content that is text")
    return f"{role}: {content}"


def _parameters(body: Mapping[str, Any], place: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in body.items():
        if key in ("prompt", "messages") or key in _IGNORED or value is None:
            continue
        if key in _PARAMETERS:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"{place}: {key} must be a number, not {value!r}")
            wanted = schema.OVERRIDES[_PARAMETERS[key]]
            values[_PARAMETERS[key]] = wanted(value) if wanted is float else value
        elif key not in _OF_THE_JOB:
            known = [*_PARAMETERS, *_OF_THE_JOB, "prompt", "messages"]
            raise InputError(f"{place}: the body has {key!r}, which is not known here{did_you_mean(key, known)}")
        elif value != _OF_THE_JOB[key][1]:
            raise InputError(
                f"{place}: {key} cannot be set for a single request; use {_OF_THE_JOB[key][0]} for the job"
            )
    return values
