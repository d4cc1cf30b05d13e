"""The results of an OpenAI batch file as its responses: one JSON object a line, in the order of the requests."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tirazh.pipeline import schema
from tirazh.pipeline.openai_batch.requests import CUSTOM_ID, URL

# The columns of the answers to each question of classify, "" for one without a name: the names of the columns without
# the prefix, by those of the fields of a response (`choice`, `confidence`, `probabilities`, `labels`, `abstained`).
Answers = Mapping[str, Mapping[str, str]]


def answers_batch(files: Sequence[str], columns: Sequence[str]) -> bool:
    """Whether the input of a job is one batch file. `files` are the URIs of its input, `columns` those of its rows."""
    return len(files) == 1 and ".json" in files[0].lower() and {CUSTOM_ID, URL, schema.PROMPT} <= set(columns)


def response_lines(
    rows: Iterable[Mapping[str, Any]],
    *,
    plan_id: str,
    model: str,
    prefix: str,
    answers: Answers | None = None,
) -> Iterator[bytes]:
    """Yield one line for each request, with the line break. The samples of a request are its choices.

    `rows` are those of the output, in order; `answers` are the columns of the answers of classify. The ids follow
    from the plan id and the custom id, so equal outputs give equal bytes. `created` is 0 for the same reason.
    """
    for identity, group in itertools.groupby(rows, key=lambda row: str(row[CUSTOM_ID])):
        digest = hashlib.sha256(f"{plan_id} {identity}".encode()).hexdigest()[:24]
        line: dict[str, Any] = {"id": f"batch_req_{digest}", "custom_id": identity, "response": None, "error": None}
        samples = [{name.removeprefix(prefix): value for name, value in row.items()} for row in group]
        error = next((row[schema.ERROR] for row in samples if row.get(schema.ERROR) is not None), None)
        if error is not None:
            line["error"] = {"code": "row_error", "message": error}
        else:
            body = {"id": f"cmpl-{digest}", "created": 0, "model": model, **_body(samples, answers or {})}
            line["response"] = {"status_code": 200, "request_id": f"req_{digest}", "body": body}
        yield json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _body(samples: Sequence[Mapping[str, Any]], answers: Answers) -> dict[str, Any]:
    first = samples[0]
    is_chat = str(first.get(URL)).endswith("/chat/completions")
    given = first.get(schema.PROMPT_TOKENS) or 0
    made = sum(row.get(schema.COMPLETION_TOKENS) or 0 for row in samples)
    body: dict[str, Any] = {
        "object": "chat.completion" if is_chat else "text_completion",
        "choices": [_choice(index, row, is_chat, answers) for index, row in enumerate(samples)],
        "usage": {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made},
    }
    named = {question: _answer(first, columns) for question, columns in answers.items()}
    if "" not in named:
        return body | ({"answers": named} if named else {})
    del named[""][schema.CHOICE]  # it is the text
    return body | named[""]


def _answer(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a response about one question."""
    fields = {field: row.get(column) for field, column in columns.items()}
    entries = fields[schema.PROBABILITIES] or []
    return fields | {schema.PROBABILITIES: {entry[schema.LABEL]: entry[schema.PROBABILITY] for entry in entries}}


def _text_of(row: Mapping[str, Any], answers: Answers) -> str | None:
    """The text of a choice: a completion, a label, or the labels of several questions as a JSON object."""
    if not answers:
        return row.get(schema.COMPLETION)
    choices = {question: row.get(columns[schema.CHOICE]) for question, columns in answers.items()}
    return choices[""] if "" in choices else json.dumps(choices, ensure_ascii=False)


def _choice(index: int, row: Mapping[str, Any], is_chat: bool, answers: Answers) -> dict[str, Any]:
    text = _text_of(row, answers)
    content: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
    return {"index": index, **content, "finish_reason": row.get(schema.FINISH_REASON) or "stop", "logprobs": None}
