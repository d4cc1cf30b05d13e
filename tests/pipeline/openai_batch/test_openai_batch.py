"""OpenAI batch files: requests become rows, and rows become responses in the order of the requests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tirazh.errors import InputError
from tirazh.pipeline.classification.answer_counts import columns_of_answers
from tirazh.pipeline.openai_batch.requests import is_batch, rows_of_batch
from tirazh.pipeline.openai_batch.responses import answers_batch, response_lines


def request(**body: Any) -> dict[str, Any]:
    return {"custom_id": "one", "method": "POST", "url": "/v1/completions", "body": {"model": "m", **body}}


def row_of(line: dict[str, Any]) -> dict[str, Any]:
    return rows_of_batch([(1, line)], "batch.jsonl")[0][1]


def refusal(*lines: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        rows_of_batch(list(enumerate(lines, start=1)), "batch.jsonl")
    return str(caught.value)


def test_a_completion_request_is_a_row_with_its_sampling_parameters() -> None:
    line = request(prompt="Новости:", max_tokens=8, temperature=0, top_p=0.9, seed=5, n=1, stop=None)
    assert is_batch(line)
    assert row_of(line) == {
        "custom_id": "one",
        "url": "/v1/completions",
        "prompt": "Новости:",
        "max_new_tokens": 8,
        "temperature": 0.0,
        "top_p": 0.9,
        "seed": 5,
    }


def test_messages_are_written_as_turns() -> None:
    parts = [{"type": "text", "text": "При"}, {"type": "text", "text": "вет"}]
    messages = [{"role": "system", "content": "Отвечай кратко."}, {"role": "user", "content": parts}]
    assert row_of(request(messages=messages))["prompt"] == "system: Отвечай кратко.\nuser: Привет\nassistant:"


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([request(prompt="a"), request(prompt="b")], "batch.jsonl line 2 has the custom_id 'one', as line 1 has"),
        ([request()], "batch.jsonl line 1: the body needs a prompt, which is one string, or messages"),
        ([request(prompt=["a"])], "batch.jsonl line 1: the body needs a prompt, which is one string, or messages"),
        (
            [request(prompt="a", n=2)],
            "batch.jsonl line 1: n cannot be set for a single request; use --samples for the job",
        ),
        (
            [request(prompt="a", temprature=1)],
            "batch.jsonl line 1: the body has 'temprature', which is not known here; did you mean temperature?",
        ),
        ([request(prompt="a", max_tokens="8")], "batch.jsonl line 1: max_tokens must be a number, not '8'"),
        ([request(prompt="a"), {"text": "b"}], "batch.jsonl line 2 has no custom_id or no body; all lines must be"),
        (
            [request(messages=[{"role": "user"}])],
            "batch.jsonl line 1: a message needs a role and a content that is text",
        ),
    ],
)
def test_a_request_that_cannot_be_run_is_refused_with_its_line(lines: list[dict[str, Any]], says: str) -> None:
    assert refusal(*lines).startswith(says)


def responses(*rows: dict[str, Any], prefix: str = "", asked: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    answers = None if asked is None else {each.question: each.by_field for each in columns_of_answers(asked)}
    lines = response_lines(rows, plan_id="p", model="m", prefix=prefix, answers=answers)
    return [json.loads(line) for line in lines]


def test_completions_are_answered_in_order_with_their_usage() -> None:
    row = {"custom_id": "a", "url": "/v1/completions", "prompt": "x", "prompt_tokens": 3, "completion_tokens": 5}
    (line,) = responses(row | {"completion": " да", "finish_reason": "stop", "error": None})
    body = line["response"]["body"]
    assert (line["custom_id"], line["error"], line["response"]["status_code"]) == ("a", None, 200)
    assert body["choices"] == [{"index": 0, "text": " да", "finish_reason": "stop", "logprobs": None}]
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


def test_the_samples_of_a_request_are_its_choices() -> None:
    row = {"custom_id": "a", "url": "/v1/chat/completions", "prompt": "x", "prompt_tokens": 3, "completion_tokens": 1}
    samples = [row | {"completion": text, "finish_reason": "length", "sample": n} for n, text in enumerate("bc")]
    (line,) = responses(*samples)
    choices = line["response"]["body"]["choices"]
    assert [(each["index"], each["message"]["content"]) for each in choices] == [(0, "b"), (1, "c")]
    assert line["response"]["body"]["usage"]["completion_tokens"] == 2


def test_a_row_with_an_error_has_no_response() -> None:
    (line,) = responses({"custom_id": "a", "url": "/v1/completions", "t_error": "the prompt is empty"}, prefix="t_")
    assert line["response"] is None
    assert line["error"] == {"code": "row_error", "message": "the prompt is empty"}


def test_labels_are_answered_with_their_probabilities() -> None:
    entries = [{"label": "sport", "probability": 0.75}, {"label": "art", "probability": 0.25}]
    row = {"custom_id": "a", "url": "/v1/completions", "label": "sport", "confidence": 0.75, "probabilities": entries}
    (line,) = responses(row, asked={})
    body = line["response"]["body"]
    assert body["choices"][0]["text"] == "sport"
    assert body["probabilities"] == {"sport": 0.75, "art": 0.25}


def test_the_answers_to_several_questions_are_one_json_object_and_their_probabilities() -> None:
    row = {"custom_id": "a", "url": "/v1/chat/completions", "topic": "sport", "tone": None}
    for name in ("topic", "tone"):
        row |= {f"{name}_confidence": 0.5, f"{name}_abstained": name == "tone", f"{name}_probabilities": []}
    (line,) = responses(row, asked={"questions": {"topic": {}, "tone": {}}, "shape": "decision"})
    body = line["response"]["body"]
    assert body["choices"][0]["message"]["content"] == '{"topic": "sport", "tone": null}'
    given = {"choice": None, "confidence": 0.5, "probabilities": {}, "abstained": True}
    assert body["answers"]["tone"] == given


def test_only_a_single_batch_file_is_answered() -> None:
    columns = ["custom_id", "url", "prompt"]
    assert answers_batch(["/in/a.jsonl"], columns)
    assert not answers_batch(["/in/a.jsonl", "/in/b.jsonl"], columns)
    assert not answers_batch(["/in/a.parquet"], columns)
    assert not answers_batch(["/in/a.jsonl"], ["prompt"])
