"""The bodies that receivers understand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tirazh.pipeline.notify.bodies import make_request, style_of
from tirazh.pipeline.notify.message import RunMessage, outcome_of
from tirazh.pipeline.notify.settings import parse_notifications

FAILED = RunMessage(
    kind="classify",
    output="s3://news/23",
    outcome="failure",
    exit_code=1,
    sentence="9 of 25 rows have errors <!channel> & more",
    rows=25,
    rows_total=25,
    errors=9,
    begin="2026-11-30T01:30:00+00:00",
    end="2026-11-30T01:35:00+00:00",
    report="s3://news/23/_tirazh/report.html",
)
FINISHED = replace(FAILED, outcome="success", exit_code=0, sentence="25 rows are written", errors=0)


def posted(section: dict[str, Any], message: RunMessage) -> tuple[str, Any]:
    request = make_request(parse_notifications(section)[0], message)
    assert request is not None
    return request.address, json.loads(request.body)


@pytest.mark.parametrize(
    ("address", "style"),
    [
        ("https://hooks.slack.com/services/T/B/x", "slack"),
        ("https://hc-ping.com/1b2c", "healthchecks"),
        ("https://events.pagerduty.com/v2/enqueue", "pagerduty"),
        ("https://events.eu.pagerduty.com/v2/enqueue", "pagerduty"),
        ("http://alertmanager:9093/api/v2/alerts", "alertmanager"),
        ("https://example.com/hooks.slack.com", "generic"),
    ],
)
def test_the_style_follows_from_the_address(address: str, style: str) -> None:
    assert style_of(address) == style


def test_the_generic_body_has_the_sentence_and_all_figures() -> None:
    _, body = posted({"url": "https://example.com/x"}, FAILED)
    assert body.items() >= {
        "sentence": FAILED.sentence, "outcome": "failure", "exit_code": 1, "kind": "classify", "rows": 25,
        "rows_total": 25, "errors": 9, "output": "s3://news/23", "begin": FAILED.begin, "end": FAILED.end,
        "report": FAILED.report,
    }.items()  # fmt: skip
    assert FAILED.sentence in body["text"]


def test_slack_gets_a_text_in_which_nothing_is_a_mention() -> None:
    _, body = posted({"url": "https://hooks.slack.com/services/T/B/x"}, FAILED)
    assert body.keys() == {"text"}
    assert "&lt;!channel&gt; &amp; more" in body["text"]
    assert "report.html" in body["text"]


def test_healthchecks_gets_a_failure_at_an_address_of_its_own() -> None:
    section = {"url": "https://hc.example.com/ping/1b2c?create=1", "style": "healthchecks"}
    assert posted(section, FINISHED)[0] == "https://hc.example.com/ping/1b2c?create=1"
    assert posted(section, FAILED)[0] == "https://hc.example.com/ping/1b2c/fail?create=1"


def test_pagerduty_opens_an_incident_that_the_next_success_resolves() -> None:
    section = {"routing_key": "k" * 32, "style": "pagerduty"}
    address, opened = posted(section, replace(FAILED, sentence="x" * 5_000))
    assert address == "https://events.pagerduty.com/v2/enqueue"
    assert (opened["routing_key"], opened["event_action"]) == ("k" * 32, "trigger")
    assert opened["payload"].keys() >= {"summary", "source", "severity"}
    assert len(opened["payload"]["summary"]) <= 1024
    _, resolved = posted(section, FINISHED)
    assert (resolved["event_action"], resolved["dedup_key"]) == ("resolve", opened["dedup_key"])


def test_alertmanager_gets_an_alert_that_the_next_success_ends() -> None:
    (alert,) = posted({"url": "http://alerts:9093/api/v2/alerts"}, FAILED)[1]
    (ended,) = posted({"url": "http://alerts:9093/api/v2/alerts"}, FINISHED)[1]
    assert alert["labels"] == ended["labels"]
    assert alert["labels"]["alertname"] == "TirazhRunFailed"
    assert "endsAt" not in alert
    assert ended["endsAt"] == FINISHED.end


def test_the_outcome_follows_from_the_exit_code() -> None:
    assert [outcome_of(code) for code in (0, 1, 2, 3, 130, 143)] == [
        *("success", "failure", "failure", "failure", "interrupted", "interrupted")
    ]
